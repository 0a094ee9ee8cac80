"""For each line: a process that uses leases and prints what was kept of each, until it is killed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import SqliteOutbox
from support.leased_usage import account, use


async def _use_for_ever(outbox: SqliteOutbox, worker: int) -> None:
    """A durable lease, one that is not, and one that is rolled up, each used by both kinds of calls."""
    epoch = (await outbox.stats()).epoch
    number = 0
    while True:
        durability = Durability(1 + number % 2)
        lease_id = f"lease:{epoch}-{(worker + number) % 3}"
        names = [f"{epoch}-{worker}-{number + offset}" for offset in range(3)]
        made = [use(name, lease_id, 1 + number % 4, rollup=lease_id.endswith("2")) for name in names]
        results = await outbox.append([*made, made[0]], durability)
        accepted = zip([*made, made[0]], results, strict=True)
        used = sum(one.event.value for one, result in accepted if result.outcome is UsageOutcome.ACCEPTED)
        _say(f"{lease_id} {used}")
        number += len(names)


async def main() -> None:
    """Eight callers, so that groups form."""
    outbox = SqliteOutbox(Path(sys.argv[1]))
    epoch = (await outbox.stats()).epoch
    for number, durability in enumerate([Durability.DURABLE, Durability.BUFFERED, Durability.BUFFERED]):
        await outbox.leases.open(account(f"lease:{epoch}-{number}", outbox.leases.holder), durability)
    await asyncio.gather(*(_use_for_ever(outbox, worker) for worker in range(8)))


def _say(line: str) -> None:
    """One write of a whole line: nothing that a kill could cut in half."""
    os.write(1, f"{line}\n".encode())


while sys.stdin.readline():
    # Forked, so that what takes long is imported once.
    if (child := os.fork()) == 0:
        _say(f"{os.getpid()}")
        asyncio.run(main())
    os.waitpid(child, 0)
    _say("killed")
