"""Break-glass: what an operator does in an emergency, for a while (DESIGN 6).

OPEN allows a feature whatever else is known or not known; FREEZE has sidecars keep the snapshots that they
hold. Each is for one tenant or for all, has a reason, and ends by itself: at `until`, if nobody ends it
before. Entries travel in the catalogue document, and everybody who decides looks at their instants itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum

import msgspec

MAX_LIFE = timedelta(days=7)
"""What lasts longer is no emergency: it is a plan or an override."""

DEFAULT_LIFE = timedelta(hours=1)
"""How long one lasts where nobody says."""

MAX_ACTIVE = 100
"""Entries in force at once: every sidecar holds them all."""


class BreakGlassAction(IntEnum):
    """What is done. Values are those of the contract."""

    UNKNOWN = 0
    OPEN = 1
    FREEZE = 2


class BreakGlass(msgspec.Struct, frozen=True, gc=False):
    """One entry, in force during `[since, until)`.

    `tenant_id` empty is every tenant. `feature` is what is opened; a freeze has none.
    """

    id: str
    action: BreakGlassAction
    since: datetime
    until: datetime
    reason: str
    feature: str = ""
    tenant_id: str = ""

    def is_active(self, now: datetime) -> bool:
        """Whether it is in force at an instant."""
        return self.since <= now < self.until

    def is_about(self, tenant_id: str) -> bool:
        """Whether it is for a tenant: for this one, or for all."""
        return self.tenant_id in {"", tenant_id}

    @property
    def note(self) -> str:
        """What answers say of it."""
        return f"billing:break-glass:{self.action.name.lower()}:{self.id}"

    @property
    def detail(self) -> str:
        """What the warning of an answer says: until when."""
        return f"{self.until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


Entries = Sequence[BreakGlass]


def opened(entries: Entries, tenant_id: str, feature: str, now: datetime) -> BreakGlass | None:
    """The entry that opens a feature for a tenant at an instant: the last to end, where there are several."""
    return _longest(
        one
        for one in entries
        if one.action is BreakGlassAction.OPEN
        and one.feature == feature
        and one.is_about(tenant_id)
        and one.is_active(now)
    )


def frozen(entries: Entries, tenant_id: str, now: datetime) -> BreakGlass | None:
    """The entry that freezes a tenant at an instant: the last to end, where there are several."""
    return _longest(one for one in _freezes(entries, now) if one.is_about(tenant_id))


def frozen_since(entries: Entries, tenant_id: str, now: datetime) -> datetime | None:
    """Since when a tenant is frozen at an instant; what was compiled later is held back. None: it is not."""
    return min((one.since for one in _freezes(entries, now) if one.is_about(tenant_id)), default=None)


def all_frozen(entries: Entries, now: datetime) -> bool:
    """Whether every tenant is frozen at an instant, and with them what belongs to none."""
    return any(not one.tenant_id for one in _freezes(entries, now))


def active(entries: Entries, tenant_id: str, now: datetime) -> tuple[str, ...]:
    """The ids of what is in force for a tenant at an instant."""
    return tuple(one.id for one in entries if one.is_about(tenant_id) and one.is_active(now))


def next_change(entries: Entries, tenant_id: str, now: datetime) -> datetime | None:
    """The first instant after `now` at which something begins or ends for a tenant; None: nothing does."""
    instants = (at for one in entries if one.is_about(tenant_id) for at in (one.since, one.until))
    return min((at for at in instants if at > now), default=None)


def _freezes(entries: Entries, now: datetime) -> Iterable[BreakGlass]:
    return (one for one in entries if one.action is BreakGlassAction.FREEZE and one.is_active(now))


def _longest(entries: Iterable[BreakGlass]) -> BreakGlass | None:
    return max(entries, key=lambda one: (one.until, one.id), default=None)
