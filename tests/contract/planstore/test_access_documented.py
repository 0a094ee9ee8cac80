"""docs/access.md shows the roles as the code has them, and the command offers them all."""

from __future__ import annotations

from pathlib import Path

from entitlement_sidecar.cli.tokens import ROLES
from entitlement_sidecar.planstore.access import PERMISSIONS, Permission, Role

PAGE = Path(__file__).parents[3] / "docs" / "access.md"


def table() -> list[str]:
    """The lines that the page should have."""
    head = [f"| role | {' | '.join(Permission)} |", "|---" * (len(Permission) + 1) + "|"]
    rows = [
        f"| `{role}` |" + "".join(" yes |" if right in PERMISSIONS[role] else " |" for right in Permission)
        for role in Role
    ]
    return [*head, *rows]


def test_the_table_of_roles_is_that_of_the_code() -> None:
    """Line by line."""
    assert "\n".join(table()) in PAGE.read_text("utf-8")


def test_the_command_offers_every_role() -> None:
    """It names them itself, so that help needs no plan store."""
    assert list(ROLES) == [role.value for role in Role]
