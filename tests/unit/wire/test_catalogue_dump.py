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
                optional={"soft": switch, "carry_over_cap": QUANTITIES},
            )
            limits = st.lists(
                limit, max_size=3, unique_by=lambda one: (one["window"], one.get("soft", False))
            )
            return switch | st.fixed_dictionaries({"limits": limits}, optional={"enabled": switch})
    return switch


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A catalogue file, as plain data."""
    metric = st.fixed_dictionaries(
        {"domain": KEYS, "unit": KEYS},
        optional={
            "aggregation": st.sampled_from(["sum", "max", "last", "unique_count"]),
            "window": WINDOWS,
            "classification": st.sampled_from(["billable", "non_billable", "informational"]),
            "durability": st.sampled_from(["durable", "buffered"]),
        },
    )
    metrics = draw(st.dictionaries(KEYS, metric, max_size=3))
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


@settings(deadline=None, max_examples=150)
@given(documents())
def test_any_catalogue_survives_being_written(document: dict[str, Any]) -> None:
    """Whatever can be read is written so that it reads as the same; written again, it is the same text."""
    catalogue = parse_catalogue(as_json(document), "given")
    written = dump_catalogue(catalogue)

    assert parse_catalogue(written, "written") == catalogue
    assert dump_catalogue(parse_catalogue(written, "written")) == written
