"""The journal of leases on a machine whose power is cut, at every write and sync that its story reaches.

What the next start finds `proved` is never less than what was answered. On a disk that fails and goes on, the
journal says what the events say. `FAULT_SEED` repeats a run.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import ConfigurationError, RetryableError
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.sidecar.adapters import sqlite_outbox_leases
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import FILE_NAME, SqliteOutbox
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_checks import check
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import OutboxReader
from support.faulty_disk import Fault, FaultyDisk
from support.leased_usage import account, journalled_uses, queued_uses, use

SOAK = bool(os.environ.get("SOAK"))
SEED = int(os.environ.get("FAULT_SEED") or time.time_ns() % (1 << 32))
CUTS = 25 if SOAK else 2
"""Times that the power is cut at each point."""
STEP = 1 if SOAK else 3
"""Of so many points at which a disk fails that goes on, one."""

LEASES = {
    "lease:firm": Durability.DURABLE,
    "lease:mixed": Durability.DURABLE,
    "lease:loose": Durability.BUFFERED,
}
STORY = [
    ("lease:firm", Durability.DURABLE),
    ("lease:loose", Durability.BUFFERED),
    ("lease:mixed", Durability.DURABLE),
    ("lease:loose", Durability.BUFFERED),
    ("lease:mixed", Durability.BUFFERED),
    ("lease:mixed", Durability.BUFFERED),
    ("lease:firm", Durability.DURABLE),
    ("lease:mixed", Durability.BUFFERED),
    ("lease:loose", Durability.BUFFERED),
]


async def live(folder: Path) -> Counter[str]:
    """Opens leases, uses them, and ends; the disk may fail it anywhere. What was answered with yes."""
    answered = Counter[str]()
    try:
        outbox = SqliteOutbox(folder)
    except ConfigurationError:
        return answered
    for lease_id, durability in LEASES.items():
        with suppress(RetryableError):
            await outbox.leases.open(account(lease_id, outbox.leases.holder), durability)
            answered[lease_id] = 0
    for number, (lease_id, durability) in enumerate(STORY):
        if lease_id in answered:
            with suppress(RetryableError):
                made = use(f"{folder.name}-{number}", lease_id, 1 + number, rollup=number % 3 == 0)
                [result] = await outbox.append([made], durability)
                answered[lease_id] += made.event.value * (result.outcome is UsageOutcome.ACCEPTED)
    await outbox.close()
    return answered


async def found(folder: Path) -> tuple[dict[str, int], set[str]]:
    """What the next start finds: what was used of each lease, and which of these are proved."""
    outbox = SqliteOutbox(folder)
    former = await outbox.leases.former()
    await outbox.close()
    return {one.lease_id: one.used for one in former}, {one.lease_id for one in former if one.proved}


async def test_a_power_cut_never_proves_too_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of the last writes is lost or torn: what is proved was used covers every answer."""
    chance = random.Random(SEED)  # noqa: S311 - to be repeated, not to be secret
    lost = proved_after_use = at = 0
    reached = True
    while reached:
        at += 1
        crashed = []
        for cut in range(CUTS):
            # Given a machine that stops at one call
            folder, name = tmp_path / f"{at}-{cut}", f"CRASH at {at}, cut {cut}, FAULT_SEED={SEED}"
            monkeypatch.setattr(sqlite_outbox_leases, "boot_id", lambda: "before")
            with FaultyDisk(folder, Fault.CRASH, at) as disk:
                answered = await live(folder)
            crashed.append(disk.failed is not None)
            # When it starts again with what reached the disk
            disk.power_cut(chance)
            monkeypatch.setattr(sqlite_outbox_leases, "boot_id", lambda: "after")
            with FaultyDisk(folder):
                used, proved = await found(folder)
            # Then no answer is missing in what is proved, and what was always forced to disk is proved
            short = {one for one, amount in used.items() if amount < answered[one]}
            assert not short & proved, f"{name}: {used} of {answered}, proved: {proved}"
            assert "lease:firm" in proved or not answered["lease:firm"], name
            lost += len(short)
            proved_after_use += sum(answered[one] > 0 for one in proved)
        reached = any(crashed)
    assert at > 30
    assert lost, "no cut took a use that was answered: nothing was tried"
    assert proved_after_use


@pytest.mark.parametrize("fault", [Fault.FULL, Fault.ERROR, Fault.SHORT], ids=lambda fault: fault.name)
async def test_a_failing_disk_keeps_journal_and_events_together(fault: Fault, tmp_path: Path) -> None:
    """Whichever call fails: all that was answered is journalled, as the events that are held say it."""
    at, reached = SEED % STEP - STEP + 1, True
    while reached:
        # Given a disk that fails at one call
        at += STEP
        folder = tmp_path / str(at)
        with FaultyDisk(folder, fault, at) as disk:
            answered = await live(folder)
            reached = disk.failed is not None
        # When it is looked at after the next start
        with FaultyDisk(folder):
            await found(folder)
            journalled, queued = journalled_uses(folder / FILE_NAME), queued_uses(folder / FILE_NAME)
            with OutboxReader(folder / FILE_NAME) as reader:
                findings = list(check(reader, lambda _: None))
        # Then both say the same
        name = f"{fault.name} at {at}, FAULT_SEED={SEED}"
        assert +Counter(journalled) == queued, name
        assert answered <= queued, name
        assert findings == [], name
    assert at > 30
