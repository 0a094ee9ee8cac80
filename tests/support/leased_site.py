"""A plan store on PostgreSQL, a Redis and several sidecars that share one limit of one tenant."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select

from entitlement_sidecar.planstore.db import Database, QuotaCounterRow, UsageEventRow, create_engine_for
from entitlement_sidecar.testing.fault_proxy import FaultProxy
from support.hammer import FEATURE, TENANT
from support.outbox_books import queued
from support.processes import Planstore, Sidecar
from support.waiting import until

PATIENCE = 60.0
"""Seconds that something may take to come true before it counts as never."""

CATALOGUE = """
catalogue: hammered
features:
  calls: {{kind: metered, metric: calls}}
metrics:
  calls: {{domain: api, unit: call, aggregation: sum, window: month, classification: billable,
           feature: calls}}
plans:
  large:
    title: Large
    price: {{amount: "100.00", currency: EUR}}
    billing_period: month
    entitlements:
      calls: {{limits: [{{amount: {limit}, window: lifetime}}]}}
"""


class Counter(NamedTuple):
    """What the root knows of the limit."""

    admitted: int
    unadmitted: int
    delegated: int


class LeasedSite:
    """Where `limit` may be used, by anybody. Between sidecars and all else stand proxies."""

    def __init__(self, folder: Path, database: str, redis: str, limit: int, ending: ExitStack) -> None:
        self.limit = limit
        self.sidecars: list[Sidecar] = []
        self._folder, self._redis, self._ending = folder, redis, ending
        self.store = Planstore(folder / "planstore", database=database, redis=redis)
        ending.callback(self.store.kill)
        self.store.start()
        catalogue = folder / "hammered.yaml"
        catalogue.write_text(CATALOGUE.format(limit=limit))
        self.store.apply(catalogue)
        self.store.subscribe(TENANT, "large")
        self.database = Database(create_engine_for(database))
        ending.callback(self.database.close)
        self.to_store = self.proxy(self.store.grpc_port)

    def proxy(self, port: int) -> FaultProxy:
        """A way to a port that breaks on demand."""
        proxy = FaultProxy(port)
        self._ending.callback(proxy.close)
        return proxy.start()

    def start(self, count: int, redis: str = "") -> None:
        """Starts sidecars, which then know the tenant; they reach Redis as the plan store does, or else."""
        upstream = ("--planstore", f"127.0.0.1:{self.to_store.port}", "--redis", redis or self._redis)
        token = ("--token-file", str(self.store.state / "token"))
        self.sidecars = [Sidecar(self._folder / f"s{number}", *upstream, *token) for number in range(count)]
        for one in self.sidecars:
            self._ending.callback(one.kill)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(Sidecar.start, self.sidecars))
        until(lambda: all(map(_holds, self.sidecars)), "the tenant to be held", PATIENCE)

    def shipped(self) -> None:
        """Waits until every outbox is empty: the ledger knows everything then."""
        until(
            lambda: not any(queued(one.state) for one in self.sidecars),
            "the outboxes to be empty",
            2 * PATIENCE,
        )

    def ledger(self) -> list[tuple[str, int]]:
        """Every event: its id and how much it was."""
        with self.database.reading() as session:
            rows = session.execute(select(UsageEventRow.event_id, UsageEventRow.value))
            return [(id_, int(value)) for id_, value in rows]

    def counter(self) -> Counter:
        """The root's account of the limit."""
        with self.database.reading() as session:
            row = session.scalars(select(QuotaCounterRow)).one()
            return Counter(row.admitted, row.unadmitted, row.delegated)

    def leases(self, **filters: Any) -> list[dict[str, Any]]:
        """Leases and blocks that still have tokens, as operators see them."""
        answer = self.store.rest("GET", f"/api/billing/organizations/{TENANT}/leases", params=filters)
        assert answer.is_success, answer.text
        found: list[dict[str, Any]] = answer.json()["leases"]
        return found


def _holds(beside: Sidecar) -> bool:
    return beside.check(TENANT, FEATURE).allowed


@contextmanager
def leased_site(folder: Path, database: str, redis: str, limit: int) -> Iterator[LeasedSite]:
    """A site that ends with the block; it has no sidecars yet."""
    with ExitStack() as ending:
        yield LeasedSite(folder, database, redis, limit, ending)
