"""The table of usage outcomes has a row for everything that can become of an event."""

from __future__ import annotations

import pytest

from entitlement_sidecar.domain.outcomes import DECLARED, MEANINGS, Fate
from entitlement_sidecar.domain.ruling import KEPT, RuleName
from entitlement_sidecar.domain.usage import UsageOutcome
from support.usage_cases import FILES, UsageCase, usage_concept

ROWS = {(one.outcome.name, one.rule) for one in MEANINGS}


def test_every_rule_has_a_row() -> None:
    """And so have the rules that catalogues declare, and none at all."""
    assert {rule for _, rule in ROWS} == {*RuleName, DECLARED, ""}


def test_every_outcome_has_a_row() -> None:
    """Once for each rule that can decide it."""
    assert {outcome for outcome, _ in ROWS} == {one.name for one in UsageOutcome}
    assert len(ROWS) == len(MEANINGS)


@pytest.mark.parametrize("row", MEANINGS, ids=lambda row: f"{row.outcome.name}-{row.rule}")
def test_a_row_says_what_the_code_does(row: object) -> None:
    """What the table calls kept is what is kept, and only what was not kept may be sent again."""
    one = next(meaning for meaning in MEANINGS if meaning is row)
    kept = one.fate in {Fate.COUNTS, Fate.NOT_BILLED, Fate.HELD}
    assert kept == (one.outcome in KEPT)
    assert not (kept and one.retriable)


@pytest.mark.parametrize(
    "case", [case for path in FILES for case in usage_concept(path).cases], ids=lambda case: case.tenant_id
)
def test_every_case_is_of_a_row(case: UsageCase) -> None:
    """What conformance expects is on the page."""
    for at_sidecar in (True, False):
        outcome, rule, _ = case.expected(at_sidecar=at_sidecar)
        assert (outcome, rule if not rule or ":" in rule else DECLARED) in ROWS
