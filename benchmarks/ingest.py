"""How much usage a plan store takes: `python -m benchmarks.ingest [--events N] [--senders N]`.

A PostgreSQL of its own and one plan store process. Senders, each with a connection and a source of its own,
deliver batches of 500 events of 1,000 tenants and 10 metrics, one batch in flight each. Batches are encoded
beforehand. At the end the ledger must hold every event once, the aggregates must add up to them, and every
source must be complete. Prints a Markdown table; "core" is processor time, which does not grow
where others use the machine too.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

import grpc
import msgspec
from sqlalchemy import func, select

from benchmarks.upstream import Planstore, postgres
from entitlement_sidecar.planstore.db import Database, UsageLedgerRow, UsageSourceRow, create_engine_for
from entitlement_sidecar.planstore.db.migrate import migrate
from entitlement_sidecar.wire.v1 import usage_pb2
from support.shop import Shop

TENANTS = 1000
METRICS = 10
LIMITED = 5
"""Metrics whose usage counts to a limit; none of it was admitted, so ingest counts it."""

BATCH = 500
TARGET = 10_000
"""Events a second into PostgreSQL (DESIGN 12)."""

_METHOD = "/entitlement.v1.UsageIngestService/IngestBatch"
_WARM_UP = 4
"""Batches of each sender that are not counted."""


class Measured(msgspec.Struct, frozen=True):
    """What a run has come to: seconds, milliseconds of each batch, processor seconds of the plan store."""

    events: int
    seconds: float
    took: Sequence[float]
    busy: float

    def rows(self) -> Iterator[str]:
        """Lines of the table."""
        rate = self.events / self.seconds
        yield f"| events a second | {rate:,.0f} | ≥ {TARGET:,} | {'yes' if rate >= TARGET else '**no**'} |"
        yield f"| batch of {BATCH}, p50 | {median(self.took):.0f} ms | | |"
        yield f"| batch of {BATCH}, p99 | {quantiles(self.took, n=100)[98]:.0f} ms | | |"
        yield f"| plan store, core for 1,000 events | {self.busy / self.events * 1e6:.1f} ms | | |"


def catalogue() -> str:
    """Ten metrics; five of them have a feature with limits that are never reached."""
    metrics = "\n".join(
        f"  m{n}: {{domain: api, unit: call, aggregation: sum, window: month, classification: billable"
        + (f", feature: f{n}}}" if n < LIMITED else "}")
        for n in range(METRICS)
    )
    features = "\n".join(f"  f{n}: {{kind: metered, metric: m{n}}}" for n in range(LIMITED))
    granted = "\n".join(
        f"      f{n}: {{limits: [{{amount: 1000000000000, window: month}}]}}" for n in range(LIMITED)
    )
    return (
        f"catalogue: bench\nfeatures:\n{features}\nmetrics:\n{metrics}\nplans:\n  all:\n    title: All\n"
        f'    price: {{amount: "0", currency: EUR}}\n    billing_period: none\n    entitlements:\n{granted}\n'
    )


def fill(url: str, state: Path) -> None:
    """Makes the tenants, with a key that the plan store goes on with."""
    migrate(url)
    database = Database(create_engine_for(url))
    try:
        shop = Shop(database)
        state.mkdir(mode=0o700)
        shop.key.save(state / "signing.key")
        shop.apply(catalogue())
        with database.enclosing():
            for number in range(TENANTS):
                shop.subscribe(f"t{number}", "all")
    finally:
        database.close()


def batches(source: int, count: int) -> list[bytes]:
    """Requests of one source, encoded."""
    chosen, now = random.Random(source), int(time.time())  # noqa: S311 - which tenants use what is no secret
    return [_batch(source, number, chosen, now) for number in range(count)]


def _batch(source: int, number: int, chosen: random.Random, now: int) -> bytes:
    request = usage_pb2.IngestBatchRequest(
        instance=f"bench-{source}", epoch=1, batch_id=number + 1, accepted_total=(number + 1) * BATCH
    )
    for place in range(BATCH):
        item = request.events.add(sequence=number * BATCH + place + 1)
        event = item.event
        event.id = f"d-{source}-{number}-{place}-{chosen.getrandbits(64):016x}"
        event.tenant_id = f"t{chosen.randrange(TENANTS)}"
        event.metric = f"m{chosen.randrange(METRICS)}"
        event.value, event.unit, event.classification = 1, "call", 1
        event.occurred_at.seconds = event.recorded_at.seconds = now
        event.occurred_at.nanos = chosen.randrange(999_999) * 1000
        event.recorded_at.nanos = 999_999_000
        event.correlation_id = f"work-{chosen.getrandbits(48):012x}"
        event.emitter, event.subject, event.actor_id = "bench", f"user-{chosen.randrange(50)}", "someone"
        event.dimensions["region"] = "eu"
        event.schema_version, event.registry_version, event.recorded_by = 1, 1, request.instance
    return request.SerializeToString()


def send(store: Planstore, requests: Sequence[bytes]) -> list[float]:
    """Delivers batches one after the other; milliseconds of each. Anything but ACCEPTED ends the run."""
    took = []
    with grpc.insecure_channel(f"127.0.0.1:{store.grpc_port}") as channel:
        call = channel.unary_unary(_METHOD)
        for request in requests:
            began = time.perf_counter()
            answer = call(request, metadata=(("authorization", f"Bearer {store.token}"),), timeout=60)
            took.append((time.perf_counter() - began) * 1000)
            results = usage_pb2.IngestBatchResponse.FromString(answer).results
            refused = [one for one in results if one.outcome != usage_pb2.USAGE_OUTCOME_ACCEPTED]
            if refused or len(results) != BATCH:
                raise SystemExit(f"not all were accepted: {refused[:1]}")
    return took


def measure(store: Planstore, senders: int, count: int) -> Measured:
    """All senders at once."""
    prepared = [batches(source, _WARM_UP + count) for source in range(senders)]
    with ThreadPoolExecutor(senders) as pool:
        list(pool.map(lambda requests: send(store, requests[:_WARM_UP]), prepared))
        busy, began = _processor_seconds(store), time.perf_counter()
        took = list(pool.map(lambda requests: send(store, requests[_WARM_UP:]), prepared))
        seconds, busy = time.perf_counter() - began, _processor_seconds(store) - busy
    return Measured(senders * count * BATCH, seconds, [one for each in took for one in each], busy)


def verify(url: str, senders: int, count: int) -> None:
    """Every event once, in the ledger, in the aggregates and in the books of its source."""
    expected = senders * (_WARM_UP + count) * BATCH
    database = Database(create_engine_for(url))
    try:
        with database.reading() as session:
            ledger, source = UsageLedgerRow, UsageSourceRow
            added = session.execute(select(func.sum(ledger.value), func.sum(ledger.event_count))).one()
            stored = session.scalars(select(func.sum(source.stored))).one()
    finally:
        database.close()
    if {int(number) for number in (*added, stored)} != {expected}:
        raise SystemExit(f"expected {expected} events; aggregates have {added}, sources {stored}")


def _processor_seconds(store: Planstore) -> float:
    if store.process is None:
        raise SystemExit("the plan store has ended")
    fields = Path(f"/proc/{store.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Runs it."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    options.add_argument("--events", type=int, default=100_000)
    options.add_argument("--senders", type=int, default=4)
    asked = options.parse_args()
    count = max(1, asked.events // BATCH // asked.senders)
    with ExitStack() as stack:
        url = stack.enter_context(postgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fill(url, folder / "state")
        store = Planstore(folder / "state", database=url)
        stack.callback(store.kill)
        store.start()
        found = measure(store, asked.senders, count)
        verify(url, asked.senders, count)
        print(f"| {found.events:,} events, {asked.senders} senders | | target | |\n|---|---:|---:|---|")
        for row in found.rows():
            print(row)


if __name__ == "__main__":
    main()
