"""Which features grant no leases any more because too much of a limit was lost with those who held it.

More than a tenth: each use is admitted alone then, until less is forfeited (it was settled, or released
by hand), or the window ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.db import Database, QuotaAccountRow
from entitlement_sidecar.planstore.leases.standing import standing_of
from entitlement_sidecar.telemetry import metrics

EVERY = 60.0
"""Seconds between two looks."""

MAX_FEATURES = 1_000
"""Features of tenants that one look goes through at most."""


def strict_features(session: Session, tenant_id: str, features: Iterable[str], at: datetime) -> set[str]:
    """Those of some features of a tenant that grant no leases at an instant because much was lost."""
    standings = {feature: standing_of(session, tenant_id, feature, at) for feature in set(features)}
    return {feature for feature, one in standings.items() if one is not None and one.strict}


class Strictness:
    """Looks, and sets the gauge. Every replica shows the same."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def step(self) -> None:
        """One look."""
        now = self._clock.now()
        with self._database.reading() as session:
            found = _with_forfeits(session)
            strict = sum(len(strict_features(session, tenant, [feature], now)) for tenant, feature in found)
        metrics.strict_features.set(strict)


def _with_forfeits(session: Session) -> list[tuple[str, str]]:
    """Tenants and features of which lost holders still have something."""
    row = QuotaAccountRow
    query = (
        select(row.tenant_id, row.feature)
        .where(row.closed.is_(True), row.parent == "", row.granted > row.used + row.returned + row.reclaimed)
        .distinct()
        .limit(MAX_FEATURES)
    )
    return [(tenant_id, feature) for tenant_id, feature in session.execute(query)]
