"""The reference page of decisions, from what the contract says of each reason and degradation.

A reason's comment says what it means and, after `Do:`, what a service should do.
"""

from __future__ import annotations

from collections.abc import Iterator

from reference_contract import elements

HEAD = """# Decisions

What an answer's `reason` means, and what a service should do on it. A reason is stable: values are only ever
added. A service that meets one it does not know obeys `allowed`.

Written by `make generate` from the comments in `decision.proto`. How a decision comes about is in
[architecture](../architecture/README.md); `entitlements check TENANT FEATURE --explain` shows it for one
question; the cases of [conformance](../../conformance/README.md) show each rule.
"""

NOTES = """## `notes`

| note | on |
|---|---|
| `billing:subscription-missing` | TENANT_UNKNOWN and every SUBSCRIPTION reason |
| `billing:quota-exceeded:<feature>` | QUOTA_EXCEEDED, EXCEEDS_LIMIT, SEATS_EXHAUSTED, CREDITS_EXHAUSTED |
| `billing:overage:<feature>` | OVER_SOFT_LIMIT |
| `billing:error:<kind>` | FEATURE_UNKNOWN, NOT_IN_PLAN, DENIED_BY_OVERRIDE, VALUE_NOT_ALLOWED |
| `billing:error:undetermined:<feature>` | UNDETERMINED |
| `billing:outage:<policy>:<rule>` | UNDETERMINED |
| `billing:break-glass:<action>:<id>` | whatever an operator opened or froze |

The policy of an outage note is `allow`, `deny`, `value` or `allowance`; the rule that chose it is the
feature's own `policy`, its `placement`, the `default` of its kind, or `stale` data.

An allowed answer without degradation has no note, but for overage and [break-glass](../break-glass.md).
"""


def render(description: bytes) -> str:
    """The whole page."""
    texts = {one.name: one.comment for one in elements(description)}
    reasons = "\n".join(_reasons(texts))
    degradations = "\n".join(
        f"| `{name}` | {text} |" for name, text in _values(texts, "Degradation", "DEGRADATION_")
    )
    sections = (
        "## `reason`",
        f"| reason | answer | meaning | what a service should do |\n|---|---|---|---|\n{reasons}",
        "## `degradation`",
        f"| degradation | meaning |\n|---|---|\n{degradations}",
    )
    return "\n\n".join([HEAD.rstrip(), *sections, NOTES])


def _reasons(texts: dict[str, str]) -> Iterator[str]:
    for name, text in _values(texts, "Reason", "REASON_"):
        meaning, _, advice = text.partition(" Do: ")
        if not advice:
            raise ValueError(f"REASON_{name}: its comment lacks `Do:` and what a service should do")
        answer, _, rest = meaning.partition(": ")
        yield f"| `{name}` | {answer.lower()} | {rest[:1].upper()}{rest[1:]} | {advice} |"


def _values(texts: dict[str, str], enum: str, prefix: str) -> Iterator[tuple[str, str]]:
    for name, text in texts.items():
        value = name.removeprefix(f"{enum}.{prefix}")
        if value not in (name, "UNSPECIFIED"):
            yield value, text
