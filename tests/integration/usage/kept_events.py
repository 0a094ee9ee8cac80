"""A process that keeps events and prints each id once it was acked, until it is killed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import SqliteOutbox
from support.usage import record


async def _append_for_ever(outbox: SqliteOutbox, worker: int, durability: Durability) -> None:
    number = 0
    while True:
        names = [f"{worker}-{number + offset}" for offset in range(5)]
        results = await outbox.append([record(name, answer=b"yes") for name in names], durability)
        acked = [result.id for result in results if result.outcome is UsageOutcome.ACCEPTED]
        # One write of whole lines: nothing that a kill could cut in half.
        os.write(1, "".join(f"{name}\n" for name in acked).encode())
        number += len(names)


async def main() -> None:
    """Eight callers, so that groups form."""
    outbox = SqliteOutbox(Path(sys.argv[1]))
    durability = Durability[sys.argv[2]]
    await asyncio.gather(*(_append_for_ever(outbox, worker, durability) for worker in range(8)))


asyncio.run(main())
