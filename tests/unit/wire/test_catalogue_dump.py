"""A catalogue written as a file reads as the same catalogue."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entitlement_sidecar.wire.catalogue_dump import dump_catalogue
from entitlement_sidecar.wire.catalogue_file import load_catalogue, parse_catalogue
from entitlement_sidecar.wire.snapshot_codec import document_from_proto, document_to_proto
from entitlement_sidecar.wire.v1 import snapshot_pb2

EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "catalogues").glob("*.yaml"))

KEYS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9._-]{0,63}", fullmatch=True),
    st.sampled_from(["true", "null", "no", "on", "y", "e5", "inf", "nan", "default"]),
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30) | st.sampled_from(
    ["1e5", "0x10", "2026-01-01", "~", "", " a ", "a: b", "# a", "- a", "1_000", ".5", "12:30", "null", "No"]
)
QUANTITIES = st.integers(0, 2**53 - 1)
AMOUNTS = QUANTITIES | st.just("unlimited")
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"])
CALENDAR = st.sampled_from(["minute", "hour", "day", "month", "quarter", "year"])
WINDOWS = st.one_of(
    CALENDAR,
    st.sampled_from(["week", "billing_cycle", "lifetime"]),
    st.fixed_dictionaries({"unit": CALENDAR, "zone": ZONES}),
    st.fixed_dictionaries(
        {"unit": st.just("week")},
        optional={"zone": ZONES, "week_start": st.sampled_from(["monday", "tuesday", "sunday"])},
    ),
)
SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = SCALARS | st.lists(SCALARS, max_size=4)
SHORT_DURATIONS = st.from_regex(r"[0-9]{1,3}[smhd]", fullmatch=True)
DURATIONS = st.from_regex(r"[0-9]{1,9}[smhd]", fullmatch=True)


@st.composite
def features(draw: st.DrawFn, metrics: list[str]) -> dict[str, Any]:
    """A feature of any kind."""
    kinds = ["boolean", "config", "seats"] + (["metered", "credits"] if metrics else [])
    kind = draw(st.sampled_from(kinds))
    found: dict[str, Any] = {"kind": kind}
    if kind in {"metered", "credits"}:
        found["metric"] = draw(st.sampled_from(metrics))
    flags = st.fixed_dictionaries(
        {},
        optional={
            "title": TEXTS,
            "placement": st.booleans(),
            "deprecated": st.booleans(),
            "obligations": st.fixed_dictionaries({}, optional={"evaluation_required": st.booleans()}),
        },
    )
    outage = draw(
        st.fixed_dictionaries(
            {},
            optional={"serve_stale_for": DURATIONS, "after_stale": st.sampled_from(["last_known", "deny"])},
        )
    )
    if kind in {"metered", "credits"} and draw(st.booleans()):
        outage |= {
            "when_unknown": "allowance",
            "allowance": draw(QUANTITIES),
            "allowance_window": draw(WINDOWS),
        }
    elif kind == "config" and draw(st.booleans()):
        outage |= {"when_unknown": "value", "value": draw(VALUES)}
    return found | draw(flags) | {"outage": outage}


@st.composite
def entitlements(draw: st.DrawFn, kinds: dict[str, str]) -> dict[str, Any]:
    """What is granted of some features."""
    return {key: draw(granted(kind)) for key, kind in kinds.items() if draw(st.booleans())}


def granted(kind: str) -> st.SearchStrategy[Any]:
    """What may be granted of a feature of a kind."""
    priority = st.integers(-(10**6), 10**6)
    switch = st.booleans()
    match kind:
        case "config":
            return st.just(False) | st.fixed_dictionaries(
                {"value": VALUES}, optional={"enabled": switch, "priority": priority}
            )
        case "seats":
            return switch | st.fixed_dictionaries(
                {"seats": AMOUNTS}, optional={"window": WINDOWS, "enabled": switch}
            )
        case "credits":
            return switch | st.fixed_dictionaries(
                {"credits": AMOUNTS}, optional={"window": WINDOWS, "enabled": switch, "priority": priority}
            )
        case "metered":
            limit = st.fixed_dictionaries(
                {
                    "amount": QUANTITIES,
                    "window": st.sampled_from(["minute", "day", "month", "billing_cycle"]),
                },
                optional={
                    "soft": switch,
                    "carry_over_cap": QUANTITIES,
                    "mode": st.sampled_from(["strict", "leased", "local_deny"]),
                    "on_holder_loss": st.sampled_from(["forfeit", "reclaim"]),
                },
            )
            limits = st.lists(
                limit, max_size=3, unique_by=lambda one: (one["window"], one.get("soft", False))
            )
            return switch | st.fixed_dictionaries({"limits": limits}, optional={"enabled": switch})
    return switch


@st.composite
def metrics_of_a_file(draw: st.DrawFn) -> dict[str, Any]:
    """Metrics by key, each with any fields that go together."""
    metric = st.fixed_dictionaries(
        {"domain": KEYS, "unit": KEYS},
        optional={
            "aggregation": st.sampled_from(["sum", "max", "last", "unique_count"]),
            "window": WINDOWS,
            "classification": st.sampled_from(["billable", "non_billable", "informational"]),
            "durability": st.sampled_from(["durable", "buffered"]),
            "granularity": st.sampled_from(["event", "rollup"]),
            "terminal": st.booleans(),
            "counts_to_quota": st.booleans(),
            "when_full": st.sampled_from(["refuse", "block", "allow_unmetered"]),
            "max_age": SHORT_DURATIONS,
            "max_future": st.sampled_from(["0s", "90s", "24h"]),
            "close_after": SHORT_DURATIONS,
            "after_close": st.sampled_from(["adjust", "refuse"]),
        },
    )
    found = draw(st.dictionaries(KEYS, metric, max_size=3))
    for one in found.values():
        if one.get("terminal") or one.get("aggregation") in {"max", "last"}:
            one.pop("granularity", None)
        if one.get("classification") != "non_billable":
            one.pop("counts_to_quota", None)
    return found


@st.composite
def registries(draw: st.DrawFn, metrics: dict[str, Any]) -> dict[str, Any]:
    """The rest of the registry of some metrics."""
    some = st.lists(st.sampled_from(sorted(metrics)), min_size=1, unique=True) if metrics else st.nothing()
    domains = (
        st.sampled_from(sorted({one["domain"] for one in metrics.values()})) if metrics else st.nothing()
    )
    attributes = st.sampled_from(["emitter", "subject", "actor_id"]) | st.from_regex(
        r"dimensions\.[a-z: #]{1,64}", fullmatch=True
    )
    texts = st.lists(TEXTS, min_size=1, max_size=3, unique=True)
    about: dict[str, Any] = {"metrics": some, "domains": st.lists(domains, min_size=1, unique=True)}
    rule = st.fixed_dictionaries(
        {"when": st.dictionaries(attributes, texts, min_size=1, max_size=3)},
        optional={
            "title": TEXTS,
            "then": st.sampled_from(["non_billable", "refuse"]),
            **(about if metrics else {}),
        },
    )
    emitter = st.fixed_dictionaries({"external": st.booleans()})
    internal = st.fixed_dictionaries({"metrics": some}) if metrics else emitter
    events = [key for key, one in metrics.items() if one.get("granularity") != "rollup"]
    found = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "emitters": st.dictionaries(KEYS, emitter | internal, max_size=3),
                "rules": st.dictionaries(KEYS, rule, max_size=4),
                "retention": st.fixed_dictionaries({"informational": st.sampled_from(["36500d", "3651d"])}),
            },
        )
    )
    return found | ({"task_metrics": {"compute_ms": events[0]}} if events else {})


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A catalogue file, as plain data."""
    metrics = draw(metrics_of_a_file())
    found = draw(st.dictionaries(KEYS, features(sorted(metrics)), min_size=1, max_size=4))
    kinds = {key: str(one["kind"]) for key, one in found.items()}
    plan = st.fixed_dictionaries(
        {
            "price": st.fixed_dictionaries(
                {
                    "amount": st.from_regex(r"[0-9]{1,15}([.][0-9]{1,9})?", fullmatch=True),
                    "currency": st.sampled_from(["USD", "EUR", "NOK"]),
                }
            ),
            "billing_period": st.sampled_from(["month", "year", "none"]),
            "entitlements": entitlements(kinds),
        },
        optional={
            "title": TEXTS,
            "billing_model": st.sampled_from(["subscription", "usage", "hybrid"]),
            "trial_days": st.integers(0, 3650),
            "active": st.booleans(),
            "product": KEYS,
        },
    )
    add_on = st.fixed_dictionaries({"entitlements": entitlements(kinds)}, optional={"title": TEXTS})
    return {
        "catalogue": draw(KEYS),
        "features": found,
        "metrics": metrics,
        "plans": draw(st.dictionaries(KEYS, plan, max_size=2)),
        "add_ons": draw(st.dictionaries(KEYS, add_on, max_size=2)),
        **draw(registries(metrics)),
    }


def as_json(document: dict[str, Any]) -> str:
    """A file that something else than what is tested has written: JSON is YAML, once it is escaped enough."""
    text = json.dumps(document, ensure_ascii=False)
    return re.sub(
        r"[^\n\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\U00010000-\U0010ffff]", lambda m: f"\\u{ord(m[0]):04x}", text
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_survive_being_written(path: Path) -> None:
    """What is shipped as an example reads, written anew, as it did."""
    catalogue = load_catalogue(path)

    assert parse_catalogue(dump_catalogue(catalogue), "written") == catalogue


@settings(deadline=None, max_examples=80)
@given(documents())
def test_any_catalogue_survives_being_written(document: dict[str, Any]) -> None:
    """Whatever can be read is written so that it reads as the same; and sidecars get the same registry."""
    catalogue = parse_catalogue(as_json(document), "given")
    written = dump_catalogue(catalogue)

    assert parse_catalogue(written, "written") == catalogue
    assert dump_catalogue(parse_catalogue(written, "written")) == written
    sent = catalogue.document(7, feed_shards=2)
    payload = document_to_proto(sent).SerializeToString()
    assert document_from_proto(snapshot_pb2.CatalogueDocument.FromString(payload)) == sent
