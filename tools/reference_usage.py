"""The reference page of usage outcomes, from the table in the code."""

from __future__ import annotations

from entitlement_sidecar.domain.outcomes import DECLARED, MEANINGS, Meaning

HEAD = """# Usage outcomes

What becomes of a usage event: its `outcome`, and the `rule` that decided it. Each outcome also names the
version of the registry that it was judged by, and the classification that the event counts as.

A sidecar judges first, and tells the service that reports. The plan store judges everything again by the
catalogue in force, and decides. Where a sidecar accepted what the plan store then refuses, the event becomes
a dead letter of that sidecar: `entitlements outbox inspect` shows it, `entitlements outbox replay` sends it
again.

Names with a colon are rules that hold in every registry; those without are keys of the rules that a
[catalogue](catalogue.md) declares. How usage travels is in [usage](../usage.md); cases of it are in
[conformance](../../conformance/README.md).

Written by `make generate` from `domain/outcomes.py`.
"""

COLUMNS = ("outcome", "rule", "decided by", "the event", "send again", "meaning", "what to do")


def render() -> str:
    """The whole page."""
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
    return "\n".join([HEAD, head, *map(_row, MEANINGS), ""])


def _row(one: Meaning) -> str:
    rule = one.rule if one.rule == DECLARED else f"`{one.rule}`" if one.rule else "none"
    again = "yes" if one.retriable else "no use"
    cells = (f"`{one.outcome.name}`", rule, one.place, one.fate, again, one.meaning, one.advice)
    return f"| {' | '.join(cells)} |"
