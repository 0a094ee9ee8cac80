"""The worker that stores what time made of subscriptions; any number of replicas share the work."""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.db import Database, OrganizationRow
from entitlement_sidecar.planstore.db.away import AWAY
from entitlement_sidecar.planstore.subscriptions.changes import Subscriptions
from entitlement_sidecar.planstore.subscriptions.queries import Due, due_to_settle
from entitlement_sidecar.telemetry import metrics

EVERY = 30.0
"""Seconds between looks. Decisions do not wait for it."""

BATCH = 100
"""Tenants that are looked up at once."""

_log = logging.getLogger(__name__)


class Settler:
    """Settles what is due, a tenant a transaction."""

    def __init__(self, database: Database, subscriptions: Subscriptions, clock: Clock) -> None:
        self._database = database
        self._subscriptions = subscriptions
        self._clock = clock

    def settle_due(self) -> int:
        """Goes once through all that is due; how many steps that took.

        What another replica holds is left to it, and what cannot be settled keeps nobody else waiting.
        """
        now, done = self._clock.now(), 0
        after: Due | None = None
        while due := self._due(now, after):
            done += sum(self._settle_safely(tenant_id) for _, tenant_id in due)
            after = due[-1]
        if done:
            _log.info("%d changes of subscriptions that were due are stored", done)
        return done

    def _due(self, now: datetime, after: Due | None) -> list[Due]:
        with self._database.reading() as session:
            return due_to_settle(session, now, after, BATCH)

    def _settle_safely(self, tenant_id: str) -> int:
        try:
            return self._settle(tenant_id)
        except AWAY:
            raise
        except Exception:  # noqa: BLE001 - whoever is due after this one must not wait for it
            _log.exception("what is due of tenant %r cannot be stored", tenant_id)
        return 0

    def _settle(self, tenant_id: str) -> int:
        with self._database.writing() as session:
            if not _held(session, tenant_id):
                return 0
            steps = self._subscriptions.settle(session, tenant_id)
        metrics.settled.inc(steps)
        return steps


def _held(session: Session, tenant_id: str) -> bool:
    """Whether the tenant's row could be had at once: where it cannot, somebody changes or settles it now."""
    query = select(OrganizationRow.tenant_id).where(OrganizationRow.tenant_id == tenant_id)
    return session.scalars(query.with_for_update(skip_locked=True)).first() is not None
