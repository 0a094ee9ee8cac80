"""No reason, kind, window, provenance, degradation or warning is without a case."""

from __future__ import annotations

from enum import IntEnum

import pytest

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.decision import Degradation, ProvenanceKind, Reason, WarningKind
from entitlement_sidecar.domain.window import WindowUnit
from support.conformance import FILES, all_cases, concept

AT_LEAST = 300

NOT_DECIDED = {"USAGE_UNMETERED"}
"""Warnings about the sidecar's disk, which no rule decides: `tests/e2e/test_disk_full_usage.py` has them."""


def _expected(name: str) -> set[str]:
    """The first words of everything that cases expect under a name."""
    found: set[str] = set()
    for case in all_cases():
        value = case.raw["expect"].get(name, "NONE" if name == "degradation" else [])
        found |= {str(one).partition(" ")[0] for one in (value if isinstance(value, list) else [value])}
    return found


def _names(kind: type[IntEnum]) -> set[str]:
    return {one.name for one in kind if one.value}


def test_there_are_enough() -> None:
    """Each says its own rule."""
    cases = all_cases()
    assert len(cases) >= AT_LEAST
    intents = [(case.concept, case.raw["intent"]) for case in cases]
    assert len(set(intents)) == len(intents)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("reason", Reason),
        ("degradation", Degradation),
        ("provenance", ProvenanceKind),
        ("warnings", WarningKind),
    ],
)
def test_every_value_is_expected_somewhere(name: str, kind: type[IntEnum]) -> None:
    """A value that nobody expects is a value that nobody has thought about."""
    assert _names(kind) - _expected(name) - NOT_DECIDED == set()


def test_every_kind_is_asked_about() -> None:
    """By a case whose feature is of it."""
    asked = {
        concept(path).file.catalogue.features[feature].kind.name
        for path in FILES
        for case in concept(path).cases
        if (feature := case.raw["check"]["feature"]) in concept(path).file.catalogue.features
    }
    assert _names(FeatureKind) - asked == set()


def test_every_window_is_counted_in() -> None:
    """By a limit of some concept's catalogue."""
    units = {
        limit.window.unit.name
        for path in FILES
        for plan in concept(path).file.catalogue.plans.values()
        for entitlement in plan.entitlements
        for limit in entitlement.limits
    }
    assert _names(WindowUnit) - units == set()
