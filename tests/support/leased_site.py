"""A plan store on PostgreSQL, a Redis and several sidecars, whose tenants have one limit each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uuid6
from sqlalchemy import select

from entitlement_sidecar.planstore.db import Database, QuotaCounterRow, UsageEventRow, create_engine_for
from entitlement_sidecar.testing.fault_proxy import FaultProxy
from support.hammer import FEATURE
from support.outbox_books import queued
from support.processes import Planstore, Sidecar
from support.waiting import until

PATIENCE = 60.0
"""Seconds that something may take to come true before it counts as never."""

CATALOGUE = """
catalogue: leased
features:
  calls: {kind: metered, metric: calls}
metrics:
  calls: {domain: api, unit: call, aggregation: sum, window: month, classification: billable, feature: calls}
plans:
"""

PLAN = """
  of-{limit}:
    title: Of {limit}
    price: {{amount: "100.00", currency: EUR}}
    billing_period: month
    entitlements:
      calls: {{limits: [{{amount: {limit}, window: lifetime}}]}}
"""


class Counter(NamedTuple):
    """What the root knows of a limit."""

    admitted: int
    unadmitted: int
    delegated: int


class LeasedSite:
    """Its sidecars reach the plan store through a proxy, and Redis as they are told."""

    def __init__(self, folder: Path, database: str, redis: str, limits: Collection[int]) -> None:
        self.sidecars: list[Sidecar] = []
        self.ending = ExitStack()
        self._folder = folder
        self.store = Planstore(folder / "planstore", database=database, redis=redis)
        self.database = Database(create_engine_for(database))
        self.ending.callback(self.database.close)
        self.ending.callback(self.store.kill)
        self._limits = limits

    def begin(self) -> None:
        """Starts the plan store."""
        self.store.start()
        catalogue = self._folder / "leased.yaml"
        catalogue.write_text(CATALOGUE + "".join(PLAN.format(limit=limit) for limit in self._limits))
        self.store.apply(catalogue)
        self.to_store = self.proxy(self.store.grpc_port)

    def proxy(self, port: int) -> FaultProxy:
        """A way to a port that breaks on demand."""
        proxy = FaultProxy(port)
        self.ending.callback(proxy.close)
        return proxy.start()

    def start(self, count: int, redis: str) -> None:
        """Starts sidecars that reach Redis so."""
        upstream = ("--planstore", f"127.0.0.1:{self.to_store.port}", "--redis", redis)
        token = ("--token-file", str(self.store.state / "token"))
        self.sidecars = [Sidecar(self._folder / f"s{number}", *upstream, *token) for number in range(count)]
        for one in self.sidecars:
            self.ending.callback(one.kill)
        self.run_all()

    def run_all(self) -> None:
        """Starts what does not run."""
        if self.store.process is None:
            self.store.start(migrated=True)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(Sidecar.start, [one for one in self.sidecars if one.process is None]))

    def tenant(self, limit: int) -> str:
        """A new tenant, which every sidecar knows, with a limit that lasts."""
        tenant = f"tenant-{uuid6.uuid7()}"
        self.store.subscribe(tenant, f"of-{limit}")
        for one in self.sidecars:
            until(lambda one=one: one.check(tenant, FEATURE).allowed, "the tenant to be held", PATIENCE)
        return tenant

    def shipped(self) -> None:
        """Waits until every outbox is empty: the ledger knows everything then."""
        until(
            lambda: not any(queued(one.state) for one in self.sidecars),
            "the outboxes to be empty",
            2 * PATIENCE,
        )

    def ledger(self, tenant: str) -> list[tuple[str, int]]:
        """Every event of a tenant: its id and how much it was."""
        of = UsageEventRow.tenant_id == tenant
        with self.database.reading() as session:
            rows = session.execute(select(UsageEventRow.event_id, UsageEventRow.value).where(of))
            return [(id_, int(value)) for id_, value in rows]

    def counter(self, tenant: str) -> Counter:
        """The root's account of a tenant's limit."""
        with self.database.reading() as session:
            found = select(QuotaCounterRow).where(QuotaCounterRow.tenant_id == tenant)
            row = session.scalars(found).one()
            return Counter(row.admitted, row.unadmitted, row.delegated)

    def leases(self, tenant: str) -> list[dict[str, Any]]:
        """Leases and blocks that still have tokens, as operators see them."""
        answer = self.store.rest("GET", f"/api/billing/organizations/{tenant}/leases")
        assert answer.is_success, answer.text
        found: list[dict[str, Any]] = answer.json()["leases"]
        return found


@contextmanager
def leased_site(folder: Path, database: str, redis: str, limits: Collection[int]) -> Iterator[LeasedSite]:
    """A site that ends with the block; it has no sidecars yet. Its tenants have limits out of these."""
    site = LeasedSite(folder, database, redis, limits)
    with site.ending:
        site.begin()
        yield site
