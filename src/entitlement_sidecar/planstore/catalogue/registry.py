"""The tables of features and metrics: what any catalogue ever named, for people and programs that query."""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Catalogue, Feature, Metric
from entitlement_sidecar.planstore.db import FeatureRow, MetricRow


def register(session: Session, catalogue: Catalogue, version: int) -> None:
    """Has every feature and metric of a catalogue in its table; the others that stand there are retired.

    `catalogue_version` of a row is that of the catalogue that last changed it.
    """
    features = {row.key: row for row in session.scalars(select(FeatureRow))}
    for feature in catalogue.features.values():
        body = _body(feature)
        feature_row = features.pop(feature.key, None)
        if feature_row is None:
            session.add(_fill_feature(FeatureRow(key=feature.key), feature, version))
        elif feature_row.body != body or feature_row.retired:
            _fill_feature(feature_row, feature, version)
    metrics = {row.key: row for row in session.scalars(select(MetricRow))}
    for metric in catalogue.metrics.values():
        body = _body(metric)
        metric_row = metrics.pop(metric.key, None)
        if metric_row is None:
            session.add(_fill_metric(MetricRow(key=metric.key), metric, version))
        elif metric_row.body != body or metric_row.retired:
            _fill_metric(metric_row, metric, version)
    gone: list[FeatureRow | MetricRow] = [*features.values(), *metrics.values()]
    for row in gone:
        if not row.retired:
            row.retired, row.catalogue_version = True, version
    session.flush()


def _fill_feature(row: FeatureRow, feature: Feature, version: int) -> FeatureRow:
    row.kind, row.title, row.metric = int(feature.kind), feature.title, feature.metric
    row.body, row.catalogue_version, row.retired = _body(feature), version, False
    return row


def _fill_metric(row: MetricRow, metric: Metric, version: int) -> MetricRow:
    row.domain, row.unit, row.feature = metric.domain, metric.unit, metric.feature
    row.aggregation, row.classification = int(metric.aggregation), int(metric.classification)
    row.body, row.catalogue_version, row.retired = _body(metric), version, False
    return row


def _body(item: Feature | Metric) -> str:
    return msgspec.json.encode(item).decode()
