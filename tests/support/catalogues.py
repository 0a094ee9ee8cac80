"""Small catalogue files, and what is said of them."""

from __future__ import annotations

from entitlement_sidecar.domain.errors import CatalogueError
from entitlement_sidecar.wire.snapshot_file import parse_snapshot_file


def problems(text: str) -> list[str]:
    """What is said of a snapshot file; empty when it is right."""
    try:
        parse_snapshot_file(text, "f")
    except CatalogueError as error:
        return [str(problem) for problem in error.problems]
    return []


def minimal(*, feature: str = "{kind: boolean}", granted: str = "true", more: str = "") -> str:
    """A file with one feature, one plan and something more at the top level."""
    return (
        f"catalogue: c\nfeatures:\n  x: {feature}\nplans:\n  p:\n"
        '    price: {amount: "1.00", currency: EUR}\n    billing_period: month\n'
        f"    entitlements: {{x: {granted}}}\n{more}"
    )
