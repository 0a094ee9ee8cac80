"""Says everything that is wrong with the meaning of a catalogue document: what refers to what.

Reads plain data that may be wrong in shape too (the schema says so), so that one run lists every problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from entitlement_sidecar.domain.errors import CatalogueProblem
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit, zone_exists
from entitlement_sidecar.wire.catalogue_registry_checks import registry_problems
from entitlement_sidecar.wire.catalogue_schema import unknown
from entitlement_sidecar.wire.catalogue_windows import build_window
from entitlement_sidecar.wire.yaml_source import Path, YamlDocument

_UNCOUNTED = frozenset({"boolean", "config"})
"""Kinds that are had or not; the others are counted."""

_USED = frozenset({"metered", "credits"})
"""Kinds whose use is a usage event of a metric."""

_ALLOWANCE = ("allowance", "allowance_window")

_BELONGS = {
    "value": ("config",),
    "limits": ("metered",),
    "seats": ("seats",),
    "credits": ("credits",),
    "window": ("seats", "credits"),
    "priority": ("config", "credits"),
}
"""Of which kinds of features each part of an entitlement is."""

_NEEDS = {
    "config": ("value", "a value: {value: …}"),
    "seats": ("seats", "how many: {seats: 5}"),
    "credits": ("credits", "how many: {credits: 100}"),
}
"""What an entitlement of a kind has to say, and how."""

_SHORT = frozenset({"state", "since", "until"})
_OF_SUBSCRIPTION = _SHORT | {"plan", "add_ons"}
"""What a tenant's entry says in short of its only subscription."""

_LATER_LIMIT = ("overage_price",)
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
        *registry_problems(data),
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
        if kind in _USED and metric is None:
            yield path, f"a {kind} feature needs the metric that its usage adds up to: metric: {key}"
        if kind in _UNCOUNTED | {"seats"} and metric is not None:
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
    given = [name for name in _ALLOWANCE if name in outage]
    if chosen == "allowance" and (len(given) < len(_ALLOWANCE) or kind not in _USED):
        needed = "allowance, allowance_window and a metered or credits feature"
        yield path, f"when_unknown: allowance needs {needed}"
    if given and chosen != "allowance":
        yield (*path, given[0]), f"{given[0]} is used only with when_unknown: allowance"
    yield from _window(outage.get("allowance_window"), (*path, "allowance_window"))
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
    if isinstance(zone, str) and not zone_exists(zone):
        yield (*path, "zone"), f"{zone[:64]!r} is no IANA zone: use one such as Europe/Berlin"


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
    if kind not in _UNCOUNTED | _USED | {"seats"}:
        return
    for name, kinds in _BELONGS.items():
        if name in body and kind not in kinds:
            yield (*path, name), f"a {kind} feature has no {name}"
    needed, form = _NEEDS.get(kind, ("", ""))
    off = granted is False or body.get("enabled") is False
    unlimited = granted is True and kind != "config"
    if needed and needed not in body and not (off or unlimited):
        yield path, f"a {kind} feature needs {form}"
    yield from _window(body.get("window"), (*path, "window"))
    yield from _limits(_items(body.get("limits")), (*path, "limits"))


def _limits(limits: list[Any], path: Path) -> Problems:
    seen = set()
    for index, raw in enumerate(limits):
        limit = _members(raw)
        window, soft = limit.get("window"), limit.get("soft") is True
        yield from _window(window, (*path, index, "window"))
        yield from _later(limit, _LATER_LIMIT, (*path, index))
        spec = _spec(window)
        ends = spec is None or spec.unit is not WindowUnit.LIFETIME
        if limit.get("carry_over_cap") and (limit.get("amount") == "unlimited" or not ends):
            yield (*path, index, "carry_over_cap"), "only what ends and is limited carries over: remove it"
        if limit.get("mode") == "optimistic" and not soft:
            yield (
                (*path, index, "mode"),
                "only soft limits may be passed: add soft: true, or remove the mode",
            )
        same = (repr(window) if spec is None else spec.key, soft)
        if same in seen:
            yield (*path, index), "this window has a limit already: keep one of each window, soft and hard"
        seen.add(same)


def _tenants(data: dict[str, Any]) -> Problems:
    for tenant, raw in _members(data.get("tenants")).items():
        entry, path = _members(raw), ("tenants", tenant)
        subscriptions = _items(entry.get("subscriptions"))
        if "subscriptions" in entry:
            for name in _OF_SUBSCRIPTION & entry.keys():
                yield (*path, name), f"{name} belongs to one of the subscriptions"
        else:
            yield from _subscription(entry, data, path)
        for index, one in enumerate(subscriptions):
            yield from _subscription(_members(one), data, (*path, "subscriptions", index))
        yield from _twice(subscriptions, (*path, "subscriptions"))
        yield from _extras(entry, data, path)


def _subscription(entry: dict[str, Any], data: dict[str, Any], path: Path) -> Problems:
    plans, add_ons = _members(data.get("plans")), _members(data.get("add_ons"))
    plan = entry.get("plan")
    if isinstance(plan, str) and plan not in plans:
        yield (*path, "plan"), f"plan {unknown(plan, plans)}"
    if plan is None:
        for name in _OF_SUBSCRIPTION & entry.keys():
            yield (*path, name), f"{name} needs the plan that it is about"
    for add_on in _members(entry.get("add_ons")):
        if add_on not in add_ons:
            yield (*path, "add_ons", add_on), f"add-on {unknown(add_on, add_ons)}"
    if "phases" in entry:
        for name in _SHORT & entry.keys():
            yield (*path, name), f"{name} is said by the phases"
        yield from _phases(_items(entry["phases"]), (*path, "phases"))
    else:
        yield from _interval(entry, path)


def _phases(phases: list[Any], path: Path) -> Problems:
    before: Any = None
    for index, raw in enumerate(phases):
        phase = _members(raw)
        wrong = list(_interval(phase, (*path, index)))
        yield from wrong
        if wrong or not isinstance(phase.get("since"), str):
            return
        if index and (before is None or instant(phase["since"]) < before):
            yield (*path, index, "since"), "phases are in order, and only the last may be without until"
        before = instant(phase["until"]) if isinstance(phase.get("until"), str) else None


def _extras(entry: dict[str, Any], data: dict[str, Any], path: Path) -> Problems:
    features = _members(data.get("features"))
    for section in ("overrides", "credits"):
        listed = _items(entry.get(section))
        yield from _twice(listed, (*path, section))
        for index, raw in enumerate(listed):
            one, place = _members(raw), (*path, section, index)
            yield from _interval(one, place)
            feature = one.get("feature")
            if isinstance(feature, str) and feature not in features:
                yield (*place, "feature"), f"feature {unknown(feature, features)}"
            elif isinstance(feature, str):
                kind = _kind(_members(features[feature]))
                yield from _override(one, kind, place) if section == "overrides" else _credit(kind, place)


def _override(one: dict[str, Any], kind: str, path: Path) -> Problems:
    if one.get("effect") == "deny":
        for name in _BELONGS.keys() & one.keys():
            yield (*path, name), f"an override that denies has no {name}"
        return
    # An override without limits is unlimited; a config one needs its value all the same.
    body = one if kind == "config" or _BELONGS.keys() & one.keys() else {**one, "enabled": False}
    yield from _entitlement(body, kind, path)


def _credit(kind: str, path: Path) -> Problems:
    if kind != "credits":
        yield (*path, "feature"), f"a credit grant is of a credits feature, this one is {kind}"


def _twice(listed: list[Any], path: Path) -> Problems:
    seen = set()
    for index, raw in enumerate(listed):
        name = _members(raw).get("id")
        if isinstance(name, str) and name in seen:
            yield (*path, index, "id"), f"{name[:40]!r} stands twice: ids are used once"
        seen.add(str(name))


def _spec(window: Any) -> WindowSpec | None:  # noqa: ANN401 - plain data of unknown shape
    """The window that is meant, however it is written; None where it is not well-formed."""
    try:
        return build_window(window)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


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
