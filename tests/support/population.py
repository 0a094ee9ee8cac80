"""Many tenants, quickly: a few are made by the product itself, and their rows are copied for all others.

Each copy has ids of its own, events of its own and a snapshot that is signed for it. The log of audit gets an
entry for each, in its chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Table, delete, insert, select, text
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.planstore.audit import Change, record
from entitlement_sidecar.planstore.db import (
    Base,
    SnapshotOutboxRow,
    SubscriptionAddOnRow,
    TenantSnapshotRow,
    UsageEventRow,
)
from entitlement_sidecar.wire.envelopes import seal_snapshot
from entitlement_sidecar.wire.v1 import usage_pb2
from support.shop import Shop

PATTERNS: tuple[dict[str, Any], ...] = (
    {"plan": "basic", "add_ons": {"more": 2}},
    {"plan": "basic"},
    {"plan": "trial"},
    {"plan": "free"},
)
"""What tenants are subscribed to, in turn."""

EVENTS = 4
"""Events of each tenant whose plan has calls."""

PAGE = 1000
"""Tenants copied in one transaction."""

_OWN_COPIES = {"audit_log", "snapshot_outbox", "idempotency_keys", "api_tokens"}
"""Tables with a tenant in them whose rows are not copied."""

Row = dict[str, Any]


def name_of(number: int) -> str:
    """The tenant with a number, from 0; names sort as numbers do."""
    return f"t{number:07d}"


class Population:
    """The tenants of a shop whose catalogue is in force."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._patterns: list[_Pattern] = []
        self.tenants = 0

    def grow(self, tenants: int) -> None:
        """Makes as many tenants as are missing, and has PostgreSQL look at what is there."""
        if not self._patterns:
            self._patterns = [_Pattern.made_by(self._shop, number) for number in range(len(PATTERNS))]
            self.tenants = len(PATTERNS)
        while self.tenants < tenants:
            numbers = range(self.tenants, min(self.tenants + PAGE, tenants))
            with self._shop.database.writing() as session:
                for pattern in self._patterns:
                    own = [number for number in numbers if number % len(PATTERNS) == pattern.number]
                    pattern.copy(session, self._shop, own)
            self.tenants = numbers.stop
        analyze(self._shop)

    def add_events(self, number: int, events: int) -> None:
        """Gives one tenant many more events than any other has."""
        table, tenant = UsageEventRow.__table__, name_of(number)
        with self._shop.database.writing() as session:
            row = self._patterns[number % len(PATTERNS)].rows[table.name][0]
            copies = [{**row, "tenant_id": tenant, "event_id": f"more-{n}"} for n in range(events)]
            session.execute(insert(UsageEventRow), copies)
        analyze(self._shop)


def populate(shop: Shop, tenants: int) -> Population:
    """Fills the database of a shop whose catalogue is in force."""
    population = Population(shop)
    population.grow(tenants)
    return population


def analyze(shop: Shop) -> None:
    """Has PostgreSQL count, as its autovacuum does before long."""
    if shop.database.is_sqlite:
        return
    with shop.database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


class _Pattern(msgspec.Struct, frozen=True):
    """A tenant that the product made, and its rows by table."""

    number: int
    snapshot: Snapshot
    rows: dict[str, list[Row]]

    @classmethod
    def made_by(cls, shop: Shop, number: int) -> _Pattern:
        """Subscribes a tenant and has it use something."""
        tenant, wanted = name_of(number), dict(PATTERNS[number])
        shop.subscribe(tenant, wanted.pop("plan"), **wanted)
        for job in range(EVENTS):
            body = {
                "feature": "calls",
                "record_usage": True,
                "request_id": f"job-{job}",
                "correlation_id": "c",
            }
            answer = shop.rest.post(f"/api/billing/organizations/{tenant}/quotas/check", json=body)
            assert answer.is_success, answer.text
        with shop.database.reading() as session:
            return cls(number, shop.snapshot(tenant), dict(_rows_of(session, tenant)))

    def copy(self, session: Session, shop: Shop, numbers: Sequence[int]) -> None:
        """Makes the tenants with these numbers as this one is."""
        if not numbers:
            return
        for table in Base.metadata.sorted_tables:
            found = self.rows.get(table.name)
            if found:
                copies = [self._own(table, row, number, shop) for number in numbers for row in found]
                session.execute(insert(table), copies)
        now = shop.clock.now()
        for number in numbers:
            made = Change("tenant.copied", f"tenant/{name_of(number)}", name_of(number))
            record(session, made, now)

    def _own(self, table: Table, row: Row, number: int, shop: Shop) -> Row:
        tenant = name_of(number)
        own = {name: self._renamed(value, tenant) for name, value in row.items()}
        if table.name == TenantSnapshotRow.__tablename__:
            own["envelope"] = seal_snapshot(shop.key, self._snapshot_of(tenant))
        elif table.name == UsageEventRow.__tablename__:
            event = usage_pb2.UsageEvent.FromString(row["payload"])
            event.tenant_id = tenant
            own["payload"] = event.SerializeToString()
        return own

    def _renamed(self, value: Any, tenant: str) -> Any:
        if value == name_of(self.number):
            return tenant
        if isinstance(value, str) and value.startswith("sub_"):
            return _subscription_of(value, tenant)
        return value

    def _snapshot_of(self, tenant: str) -> Snapshot:
        replace = msgspec.structs.replace
        return replace(
            self.snapshot,
            tenant_id=tenant,
            subscriptions=tuple(
                replace(one, id=_subscription_of(one.id, tenant)) for one in self.snapshot.subscriptions
            ),
            grants=tuple(
                replace(one, subscription_id=_subscription_of(one.subscription_id, tenant))
                if one.subscription_id
                else one
                for one in self.snapshot.grants
            ),
        )


def _subscription_of(id_: str, tenant: str) -> str:
    return f"{id_}{tenant}"


def _rows_of(session: Session, tenant: str) -> Iterator[tuple[str, list[Row]]]:
    """Every row of a tenant, without the numbers that the database gives."""
    for table in Base.metadata.sorted_tables:
        if table.name in _OWN_COPIES:
            continue
        if "tenant_id" in table.c:
            query = select(table).where(table.c.tenant_id == tenant)
        elif table.name == SubscriptionAddOnRow.__tablename__:
            query = select(table).where(table.c.subscription_id.in_(_subscriptions(session, tenant)))
        else:
            continue
        numbered = table.autoincrement_column
        given = numbered.name if numbered is not None else None
        rows = [dict(row) for row in session.execute(query).mappings()]
        yield table.name, [{name: v for name, v in row.items() if name != given} for row in rows]


def _subscriptions(session: Session, tenant: str) -> Sequence[str]:
    table = Base.metadata.tables["organization_subscriptions"]
    return session.scalars(select(table.c.id).where(table.c.tenant_id == tenant)).all()


def announce_everything_again(session: Session) -> None:
    """Has every snapshot wait for the publisher, as after a change of all tenants."""
    session.execute(delete(SnapshotOutboxRow))
    newest = select(TenantSnapshotRow.tenant_id, TenantSnapshotRow.version, TenantSnapshotRow.compiled_at)
    rows = [{"kind": "snapshot", **row} for row in session.execute(newest).mappings()]
    session.execute(insert(SnapshotOutboxRow), rows)
