"""Says everything that is wrong with the meaning of a catalogue document: what refers to what.

Reads plain data that may be wrong in shape too (the schema says so), so that one run lists every problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from entitlement_sidecar.domain.errors import CatalogueProblem
from entitlement_sidecar.wire.catalogue_schema import unknown
from entitlement_sidecar.wire.yaml_source import Path, YamlDocument

_UNCOUNTED = frozenset({"boolean", "config"})
"""Kinds that are had or not; the others have limits."""

_KINDS = _UNCOUNTED | {"metered"}

_LATER_KINDS = frozenset({"seats", "credits"})
_LATER_OUTAGE = ("allowance", "allowance_window")
_LATER_LIMIT = ("carry_over_cap", "overage_price")
_LATER = "is not available in this version"
"""Named by the contract, and refused until something acts on it: an option must not do nothing."""

_EXAMPLE = "2026-01-31T00:00:00Z"
_PRICE = re.compile(r"[0-9]{1,15}([.][0-9]{1,9})?")

Problems = Iterator[tuple[Path, str]]


def meaning_problems(document: YamlDocument) -> Iterator[CatalogueProblem]:
    """Every reference to something that is not there, and every combination that means nothing."""
    data = _members(document.data)
    features, metrics = _members(data.get("features")), _members(data.get("metrics"))
    problems = (
        *_features(features, metrics),
        *_metrics(metrics, features),
        *_granting(data, "plans", features),
        *_granting(data, "add_ons", features),
        *_prices(document),
        *_tenants(data),
    )
    for path, message in problems:
        yield document.problem(path, message)


def _members(value: Any) -> dict[str, Any]:  # noqa: ANN401 - plain data of unknown shape
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:  # noqa: ANN401
    return value if isinstance(value, list) else []


def _kind(feature: dict[str, Any]) -> str:
    kind = feature.get("kind")
    return kind if isinstance(kind, str) else ""


def _features(features: dict[str, Any], metrics: dict[str, Any]) -> Problems:
    for key, raw in features.items():
        feature, path = _members(raw), ("features", key)
        kind, metric = _kind(feature), feature.get("metric")
        if kind in _LATER_KINDS:
            yield (*path, "kind"), f"kind: {kind} {_LATER}: use boolean, config or metered"
        if kind == "metered" and metric is None:
            yield path, f"a {kind} feature needs the metric that its usage adds up to: metric: {key}"
        if kind in _UNCOUNTED and metric is not None:
            yield (*path, "metric"), f"a {kind} feature has no metric: remove it or make the kind metered"
        if isinstance(metric, str) and metric not in metrics:
            yield (*path, "metric"), f"metric {unknown(metric, metrics)}"
        yield from _outage(_members(feature.get("outage")), kind, (*path, "outage"))


def _later(body: dict[str, Any], names: tuple[str, ...], path: Path) -> Problems:
    for name in names:
        if name in body:
            yield (*path, name), f"{name} {_LATER}: remove it"


def _outage(outage: dict[str, Any], kind: str, path: Path) -> Problems:
    chosen = outage.get("when_unknown")
    if chosen == "allowance":
        yield (*path, "when_unknown"), f"when_unknown: allowance {_LATER}: use allow, deny or value"
    yield from _later(outage, _LATER_OUTAGE, path)
    if chosen == "value" and ("value" not in outage or kind != "config"):
        yield path, "when_unknown: value needs a value and a config feature"
    if "value" in outage and chosen != "value":
        yield (*path, "value"), "value is used only with when_unknown: value"


def _metrics(metrics: dict[str, Any], features: dict[str, Any]) -> Problems:
    for key, raw in metrics.items():
        metric, path = _members(raw), ("metrics", key)
        feature = metric.get("feature")
        if isinstance(feature, str) and feature not in features:
            yield (*path, "feature"), f"feature {unknown(feature, features)}"
        yield from _window(metric.get("window"), (*path, "window"))


def _window(window: Any, path: Path) -> Problems:  # noqa: ANN401
    if not isinstance(window, dict):
        return
    unit, zone = window.get("unit"), window.get("zone")
    if "week_start" in window and unit != "week":
        yield (*path, "week_start"), "week_start is used only with unit: week"
    if zone is not None and unit == "lifetime":
        yield (*path, "zone"), "a lifetime window never resets and has no zone"
    if isinstance(zone, str) and not _zone_exists(zone):
        yield (*path, "zone"), f"{zone[:64]!r} is no IANA zone: use one such as Europe/Berlin"


def _zone_exists(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return False
    return True


def _prices(document: YamlDocument) -> Problems:
    # A price written as a number is taken as written; text is the schema's business.
    for path, text in document.texts.items():
        if path[2:] == ("price", "amount") and not _PRICE.fullmatch(text):
            yield path, f"{text[:40]} is not accepted: write a price such as 299.00, up to 9 decimals"


def _granting(data: dict[str, Any], section: str, features: dict[str, Any]) -> Problems:
    for key, raw in _members(data.get(section)).items():
        path: Path = (section, key, "entitlements")
        for feature, granted in _members(_members(raw).get("entitlements")).items():
            if feature not in features:
                yield (*path, feature), f"feature {unknown(feature, features)}"
                continue
            yield from _entitlement(granted, _kind(_members(features[feature])), (*path, feature))


def _entitlement(granted: Any, kind: str, path: Path) -> Problems:  # noqa: ANN401
    body = _members(granted)
    if kind not in _KINDS:
        return
    if "value" in body and kind != "config":
        yield (*path, "value"), f"a {kind} feature has no value"
    if "limits" in body and kind != "metered":
        yield (*path, "limits"), f"a {kind} feature has no limits"
    off = granted is False or body.get("enabled") is False
    if kind == "config" and "value" not in body and not off:
        yield path, "a config feature needs a value: {value: …}"
    yield from _limits(_items(body.get("limits")), (*path, "limits"))


def _limits(limits: list[Any], path: Path) -> Problems:
    seen = set()
    for index, raw in enumerate(limits):
        limit = _members(raw)
        window, soft = limit.get("window"), limit.get("soft") is True
        yield from _window(window, (*path, index, "window"))
        yield from _later(limit, _LATER_LIMIT, (*path, index))
        same = (repr(sorted(window.items()) if isinstance(window, dict) else window), soft)
        if same in seen:
            yield (*path, index), "this window has a limit already: keep one of each window, soft and hard"
        seen.add(same)


def _tenants(data: dict[str, Any]) -> Problems:
    plans, add_ons = _members(data.get("plans")), _members(data.get("add_ons"))
    for tenant, raw in _members(data.get("tenants")).items():
        entry, path = _members(raw), ("tenants", tenant)
        plan = entry.get("plan")
        if isinstance(plan, str) and plan not in plans:
            yield (*path, "plan"), f"plan {unknown(plan, plans)}"
        for add_on in _members(entry.get("add_ons")):
            if add_on not in add_ons:
                yield (*path, "add_ons", add_on), f"add-on {unknown(add_on, add_ons)}"
        yield from _interval(entry, path)


def _interval(entry: dict[str, Any], path: Path) -> Problems:
    if entry.get("state") == "trialing" and "until" not in entry:
        yield path, f"a trial needs its end, for example until: {_EXAMPLE}"
    bounds = {}
    for name in ("since", "until"):
        if isinstance(entry.get(name), str):
            try:
                bounds[name] = instant(entry[name])
            except (ValueError, OverflowError):
                yield (
                    (*path, name),
                    f"{entry[name][:40]!r} is no instant: use one such as 2026-01-31T00:00:00Z",
                )
    if len(bounds) == len(("since", "until")) and bounds["since"] >= bounds["until"]:
        yield (*path, "until"), "until must be later than since"


def instant(text: str) -> datetime:
    """The instant of an RFC 3339 text.

    Raises:
        ValueError, OverflowError: It is none.
    """
    return datetime.fromisoformat(text).astimezone(UTC)
