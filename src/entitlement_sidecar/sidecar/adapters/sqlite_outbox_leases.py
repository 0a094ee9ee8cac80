"""The journal of leases, in the outbox's own file: `used` grows in the commit that keeps the events.

    opened ──▶ on disk (boot = '') ──use that is not forced to disk──▶ at risk (boot = this boot's id)
                     ▲                 (the first one is, to say so)        │
                     ├──── a start in the same boot, or an orderly end ─────┤
                     │                            a start in another boot ──┴──▶ not proved
                     └─ a start from a copy of the file ───────────────────────▶ not proved

A process that is killed loses no commit; a machine that stops may lose those that were not forced to disk. So
an account says beforehand that it is at risk, and in which boot of the machine. A copy of the file does not
know what its original went on to use; so the file knows where it lies.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import OutboxDatabase, encode
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_home import home_of, settle_in
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Kept
from entitlement_sidecar.sidecar.leases.journal import LeaseAccount
from entitlement_sidecar.wire.codec import from_microseconds, microseconds

if TYPE_CHECKING:
    from entitlement_sidecar.sidecar.adapters.sqlite_outbox_writer import OutboxWriter

Lease = tuple[str, str, str, str, int | None, str, int, int]
"""A row: id, tenant, feature, holder, end of the window in microseconds, block, used, proved."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ON_DISK = ""
_TOKEN_BYTES = 4


class OpenLeases:
    """Accounts that this process has opened, and which of them the file says to be at risk.

    It outlives the file's connection: a file that is opened again still has them, one that took the place of
    a damaged file does not. Only the writer's thread changes it.
    """

    def __init__(self) -> None:
        self._at_risk: dict[str, bool] = {}
        self._numbers: dict[str, int] = {}

    def __contains__(self, lease_id: object) -> bool:
        return lease_id in self._at_risk

    @property
    def any_at_risk(self) -> bool:
        """Whether a machine that stops now may take uses with it."""
        return any(self._at_risk.values())

    def uses(self, rows: Iterable[Kept]) -> dict[str, int]:
        """What events use of each account."""
        uses: dict[str, int] = {}
        if self._at_risk:
            for row in rows:
                if row.lease_id in self._at_risk:
                    uses[row.lease_id] = uses.get(row.lease_id, 0) + row.value
        return uses

    def unmarked(self, uses: Iterable[str]) -> list[str]:
        """Those of which the file does not say yet that they are at risk."""
        return [lease_id for lease_id in uses if not self._at_risk[lease_id]]

    def numbered(self, uses: dict[str, int]) -> list[tuple[int, int]]:
        """What is used of each account, by its number in the file."""
        return [(self._numbers[lease_id], used) for lease_id, used in uses.items()]

    def add(self, lease_id: str, number: int, *, at_risk: bool) -> None:
        """The file has this account."""
        self._numbers[lease_id] = number
        self._at_risk[lease_id] = at_risk

    def mark(self, lease_ids: Iterable[str]) -> None:
        """The file says that these are at risk."""
        self._at_risk.update(dict.fromkeys(lease_ids, True))

    def forget(self, lease_ids: Iterable[str]) -> None:
        """These were closed."""
        for lease_id in lease_ids:
            self._at_risk.pop(lease_id, None)
            self._numbers.pop(lease_id, None)

    def found_in(self, file: OutboxDatabase) -> None:
        """A file was opened, and what it has was forced to disk; what it lacks is not journalled any more."""
        held = dict(file.run("numbers"))
        self._numbers = {lease_id: held[lease_id] for lease_id in self._at_risk if lease_id in held}
        self._at_risk = dict.fromkeys(self._numbers, False)


class SqliteJournal:
    """Implements `LeaseJournal` beside the outbox, by its writer.

    Args:
        writer: Writes the file.
        check_open: Raises when the outbox is closed.
    """

    def __init__(self, writer: OutboxWriter, check_open: Callable[[], None]) -> None:
        self._writer = writer
        self._check_open = check_open
        # A restored copy counts its starts from where its original did: the number alone would name two.
        token = secrets.token_hex(_TOKEN_BYTES)
        self._holder = f"{writer.file.instance}.{token}:{writer.file.epoch}"

    @property
    def holder(self) -> str:
        """Who this start is to those who grant."""
        return self._holder

    async def open(self, account: LeaseAccount, durability: Durability = Durability.DURABLE) -> None:
        """Keeps an account; not forced to disk where its events are not: lost with them, it was never used.

        Raises:
            OutboxFullError: The disk takes nothing.
            SourceUnavailableError: It failed, and may succeed when it is repeated.
            DrainingError: The outbox is closed.
        """
        self._check_open()
        durable = durability is Durability.DURABLE
        await self._writer.call(lambda: open_lease(*self._present(), account, durable=durable))

    async def close(self, lease_ids: Sequence[str]) -> None:
        """Forgets accounts; one that comes back with a lost machine is settled again, which changes nothing.

        Raises:
            OutboxFullError: The disk takes nothing.
            SourceUnavailableError: It failed, and may succeed when it is repeated.
            DrainingError: The outbox is closed.
        """
        self._check_open()
        if lease_ids:
            await self._writer.call(lambda: close_leases(*self._present(), lease_ids))

    async def former(self) -> Sequence[LeaseAccount]:
        """Accounts of earlier starts.

        Raises:
            SourceUnavailableError: The file cannot be read now.
            DrainingError: The outbox is closed.
        """
        self._check_open()
        return await self._writer.call(lambda: former_leases(*self._present()))

    def _present(self) -> tuple[OutboxDatabase, OpenLeases]:
        """The file, which may be another one by the time that the writer comes to it."""
        return self._writer.file, self._writer.leases


def open_lease(file: OutboxDatabase, leases: OpenLeases, account: LeaseAccount, *, durable: bool) -> None:
    """Keeps an account of this start.

    Raises:
        ValueError: An earlier start has one of that name.
    """
    if account.lease_id in leases:
        return
    ends_at = None if account.ends_at is None else microseconds(account.ends_at)
    row = (account.lease_id, account.holder, account.tenant_id, account.feature, ends_at, account.block)
    with file.transaction(durable=durable):
        numbers = file.run("open_lease", *row, _ON_DISK if durable else boot_id())
        if not numbers:
            raise ValueError(f"lease {account.lease_id!r} is of an earlier start: nothing of it may be used")
    leases.add(account.lease_id, numbers[0][0], at_risk=not durable)


def close_leases(file: OutboxDatabase, leases: OpenLeases, lease_ids: Sequence[str]) -> None:
    """Forgets accounts of any start."""
    with file.transaction(durable=False):
        encoded = encode(lease_ids).decode()
        file.run("forget_uses", encoded)
        file.run("close_leases", encoded)
    leases.forget(lease_ids)


def former_leases(file: OutboxDatabase, leases: OpenLeases) -> list[LeaseAccount]:
    """Accounts that another start opened."""
    return [account_of(row) for row in file.run("leases") if row[0] not in leases]


def account_of(row: Lease) -> LeaseAccount:
    """A row as an account."""
    lease_id, tenant_id, feature, holder, ends_at, block, used, proved = row
    end = None if ends_at is None else from_microseconds(ends_at)
    return LeaseAccount(lease_id, tenant_id, feature, holder, end, block, used, bool(proved))


def count_uses(file: OutboxDatabase, uses: Sequence[tuple[int, int]], unmarked: Sequence[str]) -> None:
    """Adds what was used, by number of the account, inside the transaction that keeps the events."""
    file.insert("use_leases", uses)
    if unmarked:
        file.run("risk_leases", boot_id(), encode(unmarked).decode())


def review(file: OutboxDatabase, path: Path, *, sound: bool) -> None:
    """Judges at a start what is proved, inside a transaction that is forced to disk.

    Args:
        file: The file.
        path: Where it is.
        sound: Whether all that it should hold was found in it.
    """
    [(home,)] = file.run("read_home")
    at_home = home == home_of(path)
    file.run("review_leases", boot_id(), sound and at_home)
    if not at_home:
        file.run("set_home", settle_in(path))


def secure(file: OutboxDatabase, leases: OpenLeases) -> None:
    """At an orderly end: all that was used is forced to disk, and said to be."""
    if leases.any_at_risk:
        with file.transaction(durable=True):
            file.run("secure_leases")


@cache
def boot_id() -> str:
    """Names this run of the machine. Where it has no name, that of the process stands for it."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return f"process {secrets.token_hex(16)}"
