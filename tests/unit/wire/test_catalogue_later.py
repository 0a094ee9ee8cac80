"""What the contract names for later versions: a file that uses it is refused, and no message offers it."""

from __future__ import annotations

import pytest

from support.catalogues import minimal, problems

OUTAGE = "features.x.outage."
LIMIT = "plans.p.entitlements.x.limits[0]."


def outage(policy: str) -> str:
    """A file with one feature that has an outage policy."""
    return minimal(feature=f"{{kind: boolean, outage: {{{policy}}}}}")


def metered(limit: str) -> str:
    """A file with one metered feature, and something more in its limit."""
    return minimal(
        feature="{kind: metered, metric: m}",
        granted=f"{{limits: [{{amount: 1, window: day, {limit}}}]}}",
        more="metrics: {m: {domain: d, unit: u}}",
    )


@pytest.mark.parametrize(
    ("text", "place", "said", "path"),
    [
        (minimal(feature="{kind: seats}"), "3, column 13", "kind: seats", "features.x.kind"),
        (minimal(feature="{kind: credits}"), "3, column 13", "kind: credits", "features.x.kind"),
        (
            outage("when_unknown: allowance"),
            "3, column 45",
            "when_unknown: allowance",
            f"{OUTAGE}when_unknown",
        ),
        (outage("allowance: 5"), "3, column 42", "allowance", f"{OUTAGE}allowance"),
        (outage("allowance_window: hour"), "3, column 49", "allowance_window", f"{OUTAGE}allowance_window"),
        (metered("carry_over_cap: 2"), "8, column 74", "carry_over_cap", f"{LIMIT}carry_over_cap"),
        (metered("overage_price: [a]"), "8, column 73", "overage_price", f"{LIMIT}overage_price"),
    ],
    ids=range(7),
)
def test_what_a_later_version_brings_is_refused(text: str, place: str, said: str, path: str) -> None:
    """What the contract names and nothing acts on is refused, once and with its place, and never ignored."""
    (problem,) = problems(text)
    assert problem.startswith(f"line {place}: {said} is not available in this version: ")
    assert problem.endswith(f" (at {path})")


def test_no_message_offers_what_is_not_available() -> None:
    """A wrong name or kind is answered with what this version accepts."""
    found = problems(minimal(feature="{kind: seat, outage: {allow: 1, when_unknown: x}}"))
    found += problems(metered("carry_over: 1"))
    assert len(found) == 4
    assert not any(
        word in text for text in found for word in ("seats", "allowance", "carry_over_cap", "overage_price")
    )
