"""What each role may. Pure; docs/access.md shows this table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Permission(StrEnum):
    """A right. Its value goes on after "may not" in messages."""

    READ = "read"
    CHANGE = "change subscriptions, overrides, seats and usage"
    CREDIT = "grant or take credits"
    CONFIGURE = "change the catalogue or publish again"
    CONSUME = "consume quota"
    FEED = "receive snapshots"
    INGEST = "report usage"
    DELIVER = "deliver what a sidecar kept"
    ADMINISTER = "manage tokens"
    AUDIT = "read the audit log"
    BREAK_GLASS = "break glass"


class Role(StrEnum):
    """What a token is for."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    BILLING_ADMIN = "billing-admin"
    SIDECAR = "sidecar"
    EMITTER = "emitter"
    AI_AGENT = "ai-agent"


PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.READ}),
    Role.OPERATOR: frozenset({Permission.READ, Permission.CHANGE, Permission.AUDIT, Permission.BREAK_GLASS}),
    Role.BILLING_ADMIN: frozenset(Permission),
    Role.SIDECAR: frozenset({Permission.FEED, Permission.CONSUME, Permission.INGEST, Permission.DELIVER}),
    # It reports for itself, over REST: a batch says for others what happened, was admitted or corrected.
    Role.EMITTER: frozenset({Permission.INGEST}),
    # It reads, and proposes to people who may more; what it is refused is audited (S1.9).
    Role.AI_AGENT: frozenset({Permission.READ}),
}
"""What each role may. What is not here is refused."""


def roles_with(permission: Permission) -> list[Role]:
    """The roles that have a permission."""
    return [role for role in Role if permission in PERMISSIONS[role]]
