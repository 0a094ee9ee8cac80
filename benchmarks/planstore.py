"""What a plan store answers with many tenants: `python -m benchmarks.planstore [--tenants N]`.

A PostgreSQL of its own, filled by bulk, and one plan store process, asked over REST by one caller on one
connection, about tenants in a shuffled order. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles

import msgspec

from benchmarks.upstream import Planstore, postgres
from entitlement_sidecar.planstore.db import Database, create_engine_for
from entitlement_sidecar.planstore.db.migrate import migrate
from support.population import name_of, populate
from support.shop import Shop

WARM_UP = 50
"""Calls of each kind that are not counted."""

EVERY = "/api/billing/organizations"
PAGE = 100


class Measured(msgspec.Struct, frozen=True):
    """Milliseconds of one kind of call."""

    what: str
    p50: float
    p99: float

    def row(self) -> str:
        """A line of the table."""
        return f"| {self.what} | {self.p50:.2f} | {self.p99:.2f} |"


class Caller:
    """One caller on one connection."""

    def __init__(self, store: Planstore) -> None:
        self._connection = HTTPConnection("127.0.0.1", store.http_port, timeout=30)
        self._headers = {"authorization": f"Bearer {store.token}", "content-type": "application/json"}

    def close(self) -> None:
        """Hangs up."""
        self._connection.close()

    def call(self, path: str, body: bytes | None = None) -> float:
        """One call; its milliseconds. Anything but 200 ends the run."""
        began = time.perf_counter()
        self._connection.request("GET" if body is None else "POST", path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        took = (time.perf_counter() - began) * 1000
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {content[:300]!r}")
        return took

    def measure(self, what: str, calls: int, call: Callable[[Caller], float]) -> Measured:
        """Many calls of one kind."""
        took = [call(self) for _ in range(WARM_UP + calls)][WARM_UP:]
        return Measured(what, median(took), quantiles(took, n=100)[98])


def fill(url: str, state: Path, tenants: int) -> None:
    """Makes the tenants, with a key that the plan store goes on with."""
    migrate(url)
    database = Database(create_engine_for(url))
    try:
        shop = Shop(database)
        state.mkdir(mode=0o700)
        shop.key.save(state / "signing.key")
        shop.apply()
        populate(shop, tenants)
    finally:
        database.close()


def measure(caller: Caller, tenants: int, calls: int) -> list[Measured]:
    """Every kind of call."""
    chosen = random.Random(7)  # noqa: S311 - which tenants are asked about is no secret
    look, numbers = b'{"feature": "calls"}', iter(range(10**9))

    def tenant() -> str:
        return f"{EVERY}/{name_of(chosen.randrange(tenants))}"

    def use() -> bytes:
        named = {"request_id": f"bench-{next(numbers)}", "correlation_id": "bench"}
        return msgspec.json.encode({"feature": "calls", "record_usage": True, **named})

    kinds: dict[str, Callable[[Caller], float]] = {
        "entitlements of a tenant": lambda c: c.call(f"{tenant()}/entitlements"),
        "subscription": lambda c: c.call(f"{tenant()}/subscription"),
        "quotas/check, a look": lambda c: c.call(f"{tenant()}/quotas/check", look),
        "quotas/check, recorded": lambda c: c.call(f"{tenant()}/quotas/check", use()),
        "usage summary": lambda c: c.call(f"{tenant()}/usage"),
        **{
            f"{PAGE} organizations, {where}": lambda c, at=at: c.call(f"{EVERY}?limit={PAGE}&cursor={at}")
            for where, at in (
                ("at the beginning", ""),
                ("in the middle", name_of(tenants // 2)),
                ("at the end", name_of(tenants - PAGE - 1)),
            )
        },
    }
    return [caller.measure(what, calls, call) for what, call in kinds.items()]


def main() -> None:
    """Runs it."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.planstore", description=__doc__)
    options.add_argument("--tenants", type=int, default=100_000)
    options.add_argument("--calls", type=int, default=1_000, help="of each kind")
    asked = options.parse_args()
    with ExitStack() as stack:
        url = stack.enter_context(postgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        began = time.perf_counter()
        fill(url, folder / "state", asked.tenants)
        print(f"{asked.tenants:,} tenants made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        store = Planstore(folder / "state", database=url)
        stack.callback(store.kill)
        caller = stack.enter_context(closing(Caller(store.start())))
        found = measure(caller, asked.tenants, asked.calls)
        print(f"| {asked.tenants:,} tenants | p50 ms | p99 ms |\n|---|---:|---:|")
        for one in found:
            print(one.row())
        first, *_, last = (one.p50 for one in found if "organizations" in one.what)
        print(f"\nThe last page takes {last / first:.2f} of the first one.")


if __name__ == "__main__":
    main()
