"""What the contract names for later versions: a file that uses it is refused, and no message offers it."""

from __future__ import annotations

import pytest

from support.catalogues import minimal, problems

LIMIT = "plans.p.entitlements.x.limits[0]."


def metered(limit: str) -> str:
    """A file with one metered feature, and something more in its limit."""
    return minimal(
        feature="{kind: metered, metric: m}",
        granted=f"{{limits: [{{amount: 1, window: day, {limit}}}]}}",
        more="metrics: {m: {domain: d, unit: u}}",
    )


@pytest.mark.parametrize(
    ("text", "place", "said", "path"),
    [(metered("overage_price: [a]"), "8, column 73", "overage_price", f"{LIMIT}overage_price")],
)
def test_what_a_later_version_brings_is_refused(text: str, place: str, said: str, path: str) -> None:
    """What the contract names and nothing acts on is refused, once and with its place, and never ignored."""
    (problem,) = problems(text)
    assert problem.startswith(f"line {place}: {said} is not available in this version: ")
    assert problem.endswith(f" (at {path})")


def test_no_message_offers_what_is_not_available() -> None:
    """A wrong name or kind is answered with what this version accepts."""
    (found,) = problems(metered("overage: 1"))
    assert "overage_price" not in found
