"""The tables of features and metrics: what any catalogue ever named, for people and programs that query."""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Catalogue, Feature, FeatureKind, Metric
from entitlement_sidecar.domain.errors import InvalidInputError, Violation
from entitlement_sidecar.planstore.catalogue.plans import current_catalogue
from entitlement_sidecar.planstore.db import FeatureRow, MetricRow


def require_same_kinds(session: Session, catalogue: Catalogue) -> None:
    """Refuses a feature of another kind than it ever had.

    Plan versions that were bought, overrides and counters are of that kind: a value would be no limit.

    Raises:
        InvalidInputError: Names each feature, the kind that it has, and what to do.
    """
    known = {row.key: FeatureKind(row.kind) for row in session.scalars(select(FeatureRow))}
    found = current_catalogue(session)
    if found is not None:
        known |= {feature.key: feature.kind for feature in found[1].features.values()}
    wrong = [
        Violation(
            f"features.{feature.key}.kind",
            f"it is {known[feature.key].name.lower()} for good, since what was bought grants it so: "
            f"call what is {feature.kind.name.lower()} by another key",
        )
        for feature in catalogue.features.values()
        if known.get(feature.key, feature.kind) is not feature.kind
    ]
    if wrong:
        raise InvalidInputError(wrong)


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
