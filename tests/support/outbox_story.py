"""A fixed story told to an outbox: what callers and the shipper ask of it, and what they were told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.errors import ConfigurationError, RetryableError
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import FILE_NAME, SqliteOutbox
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_checks import Finding, check
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import OutboxReader
from entitlement_sidecar.sidecar.usage.outbox import Batch, Outbox, OutboxRecord
from support.usage import event, record

_T = TypeVar("_T")

PATIENCE = 60.0
"""Seconds within which every call is answered, whatever the disk does."""
MAX_BYTES = 400_000
"""So little that the log is moved into the file within the story."""
MIB = 1 << 20
LARGE = "x" * 6000
ROLLUP = "r-"
"""How ids of rollups begin."""


@dataclass
class Sums:
    """What was summed up in rollups: of each answer, how much was used with it."""

    acked: int = 0
    firm: int = 0
    refused: int = 0
    settled: int = 0
    perhaps_settled: int = 0

    def check(self, queued: int, *, everything: bool) -> None:
        """What is queued, against what was told."""
        if everything:
            assert queued + self.settled == self.acked, f"{queued} queued: {self}"
        else:
            there = queued + self.settled + self.perhaps_settled
            assert there >= self.firm, f"{queued} queued: {self}"
            assert queued <= self.acked + self.refused, f"{queued} queued: {self}"


class Story:
    """Calls an outbox and remembers its answers.

    Args:
        folder: Where the outbox is.
        name: What a failure says of the fault.
        twin: The outbox, where it is not on disk.
    """

    def __init__(self, folder: Path, name: str, twin: Outbox | None = None) -> None:
        self.name = name
        self._folder = folder
        self._twin = twin
        self._outbox: Outbox | None = None
        self._sent: dict[str, OutboxRecord] = {}
        self._tried: dict[str, list[UsageEvent]] = {}
        """Everything that was sent under an id: power that goes may leave what was not answered."""
        self._acked: set[str] = set()
        self._firm: set[str] = set()
        """Acked, and not lost with the power."""
        self._refused: set[str] = set()
        self._finished: set[str] = set()
        """Settled or given up, or perhaps so: the call failed."""
        self._boundaries: dict[tuple[int, int], set[str]] = {}
        self._sums = Sums()

    async def open(self) -> None:
        """Opens the outbox, unless the disk does not let it."""
        try:
            self._outbox = self._twin or SqliteOutbox(self._folder, max_bytes=MAX_BYTES)
        except ConfigurationError:
            self._outbox = None

    async def append(
        self, *names: str, buffered: bool = False, atomic: bool = False, value: int = 1, answer: bytes = b""
    ) -> None:
        """Reports usage; what was held is told apart."""
        made = [_large(record(one, value=value, answer=answer)) for one in names]
        outbox = self._outbox
        if outbox is None:
            return
        durability = Durability.BUFFERED if buffered else Durability.DURABLE
        for one in made:
            self._tried.setdefault(one.event.id, []).append(one.event)
        results = await self._asked(lambda: outbox.append(made, durability, atomic=atomic))
        if results is None:
            for one in made:
                if one.event.id not in self._acked:
                    self._sent[one.event.id] = one
                    self._refused.add(one.event.id)
            return
        for one, result in zip(made, results, strict=True):
            self._told(one, result)
        if not buffered and any(result.outcome is UsageOutcome.ACCEPTED for result in results):
            self._are_firm()

    def _told(self, one: OutboxRecord, result: UsageResult) -> None:
        name = one.event.id
        match result.outcome:
            case UsageOutcome.ACCEPTED:
                held = name in self._acked and name not in self._finished
                assert not held, f"{self.name}: {name} was acked twice"
                self._begin(name)
                self._sent[name] = one
            case UsageOutcome.DUPLICATE:
                assert name in self._acked | self._refused, f"{self.name}: {name} was never sent"
                self._acked.add(name)
            case UsageOutcome.CONFLICT:
                assert name in self._sent, f"{self.name}: {name} conflicts with nothing"
            case _:
                assert result.retriable, f"{self.name}: {result}"

    async def roll_up(self, *values: int, buffered: bool = False) -> None:
        """Reports usage that is summed up, alike but for its value."""
        if self._outbox is None:
            return
        durability = Durability.BUFFERED if buffered else Durability.DURABLE
        made = [OutboxRecord(event(f"any-{value}", value=value), rollup=True) for value in values]
        made = [replace(one, event=replace(one.event, correlation_id="")) for one in made]
        results = await self._asked(lambda: self._open_outbox.append(made, durability))
        if results is None:
            self._sums.refused += sum(values)
            return
        self._sums.acked += sum(values)
        if not buffered:
            self._are_firm()

    def _are_firm(self) -> None:
        """A commit that is on disk takes everything before it along."""
        self._firm |= self._acked
        self._sums.firm = self._sums.acked

    def _begin(self, name: str) -> None:
        """It is held from now on: for the first time, or because what was settled may come again."""
        self._acked.add(name)
        self._finished.discard(name)
        for names in self._boundaries.values():
            names.discard(name)

    async def ship(self, *outcomes: UsageOutcome, retriable: bool = False) -> None:
        """Takes what is next, and settles it with these outcomes, the last one for the rest."""
        for batch in await self._next():
            told = [outcomes[min(at, len(outcomes) - 1)] for at in range(len(batch.events))]
            results = [
                UsageResult(one.event.id, outcome, "because", retriable)
                for one, outcome in zip(batch.events, told, strict=True)
            ]
            done = await self._asked(partial(self._settle, batch, results))
            if not retriable:
                self._finished |= {result.id for result in results}
                self._sums.settled += rolled_up(batch) if done else 0
                self._sums.perhaps_settled += 0 if done else rolled_up(batch)

    async def _settle(self, batch: Batch, results: Sequence[UsageResult]) -> bool:
        await self._open_outbox.settle(batch, results)
        return True

    async def _next(self) -> Sequence[Batch]:
        if self._outbox is None:
            return ()
        batches = await self._asked(lambda: self._open_outbox.next_batches(3, MIB))
        for batch in batches or ():
            self._same_boundaries(batch)
        return batches or ()

    def _same_boundaries(self, batch: Batch) -> None:
        key, names = (batch.epoch, batch.batch_id), {one.event.id for one in batch.events}
        known = self._boundaries.setdefault(key, names)
        assert names <= known, f"{self.name}: {key} has grown by {names - known}"
        for other, others in self._boundaries.items():
            twice = (names & others) - self._finished
            assert other == key or not twice, f"{self.name}: {twice} are in {key} and in {other}"

    async def first_answer(self, name: str) -> None:
        """A retry of a CONSUME gets the first answer, where there was one."""
        if self._outbox is None:
            return
        kept = await self._asked(lambda: self._open_outbox.consumption("acme", name))
        if name in self._acked and kept is not None:
            assert kept == self._sent[name].consumption, f"{self.name}: another answer"

    async def _asked(self, call: Callable[[], Awaitable[_T]]) -> _T | None:
        """An answer, or None where an error of the port said why not."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await call()
        except RetryableError:
            return None

    async def go_on(self) -> None:
        """On a disk that works again, the same outbox takes what it refused; so does a new one."""
        if self._outbox is None:
            await self.open()
            assert self._outbox is not None, f"{self.name}: does not open on a healthy disk"
            await told(self)
        for name in sorted(self._refused - self._acked):
            await self._insist(self._sent[name])
        await self._insist(record("last"))
        stats = await self._open_outbox.stats()
        assert stats.accepted == stats.settled + stats.queued + stats.dead, f"{self.name}: {stats}"

    async def _insist(self, one: OutboxRecord) -> None:
        """Tries again as a caller does: what the log takes counts, until it was moved into the file."""
        async with asyncio.timeout(PATIENCE):
            while (results := await self._asked(partial(self._append, one))) is None:
                await asyncio.sleep(0.02)
        self._told(one, results[0])
        assert one.event.id in self._acked, f"{self.name}: {one.event.id} is still refused: {results}"

    async def _append(self, one: OutboxRecord) -> list[UsageResult]:
        return await self._open_outbox.append([one], Durability.DURABLE)

    @property
    def _open_outbox(self) -> Outbox:
        assert self._outbox is not None
        return self._outbox

    async def close(self) -> None:
        """Ends as a process ends; the disk may fail it."""
        if self._outbox is not None:
            async with asyncio.timeout(PATIENCE):
                await self._outbox.close()
            self._outbox = None

    async def check(self, *, everything: bool) -> None:
        """Opens what is on the disk, and compares. `everything`: no power was cut."""
        assert not list(self._folder.glob("*corrupt*")), f"{self.name}: taken for damaged"
        assert self._findings() == [], self.name
        self._outbox = self._twin or SqliteOutbox(self._folder, max_bytes=MAX_BYTES)
        stats = await self._outbox.stats()
        assert stats.accepted == stats.settled + stats.queued + stats.dead, f"{self.name}: {stats}"
        for name, one in self._sent.items():
            if one.consumption is not None and name in (self._acked if everything else self._firm):
                kept = await self._outbox.consumption("acme", name)
                assert kept == one.consumption, f"{self.name}: the answer of {name} is lost"
        there = await self._all_queued(everything=everything)
        assert stats.lost == 0, f"{self.name}: {stats}"
        assert len(there) == len(set(there)) == stats.queued, f"{self.name}: {there}, {stats}"
        wanted = self._acked if everything else self._firm
        missing = wanted - set(there) - self._finished
        assert not missing, f"{self.name}: {missing} are lost"
        ours = {name for name in there if not name.startswith(ROLLUP)}
        assert ours <= self._acked | self._refused, f"{self.name}: {ours} were never sent"
        if everything:
            assert ours <= self._acked, f"{self.name}: {ours} were refused and kept"
        await self._outbox.close()

    def _findings(self) -> list[Finding]:
        """What `outbox verify` would say; there may be nothing to look at where nothing was acked."""
        if self._twin is not None:
            return []
        try:
            with OutboxReader(self._folder / FILE_NAME) as reader:
                return list(check(reader, lambda _: None))
        except ConfigurationError:
            assert not self._acked, f"{self.name}: no outbox"
            return []

    async def _all_queued(self, *, everything: bool) -> list[str]:
        names, rolled = [], 0
        while batches := await self._open_outbox.next_batches(500, MIB):
            for batch in batches:
                self._same_boundaries(batch)
                names += [self._as_sent(one.event) for one in batch.events]
                rolled += rolled_up(batch)
                results = [UsageResult(one.event.id, UsageOutcome.ACCEPTED) for one in batch.events]
                self._finished |= {result.id for result in results}
                await self._open_outbox.settle(batch, results)
        self._sums.check(rolled, everything=everything)
        return names

    def _as_sent(self, one: UsageEvent) -> str:
        if not one.id.startswith(ROLLUP):
            sent = [self._sent[one.id].event] if one.id in self._acked else self._tried[one.id]
            assert one in sent, f"{self.name}: {one.id} has changed"
        return one.id


def rolled_up(batch: Batch) -> int:
    """What rollups of a batch sum up to."""
    return sum(one.event.value for one in batch.events if one.event.id.startswith(ROLLUP))


async def tell(story: Story) -> None:
    """The story from the beginning."""
    await story.open()
    await told(story)


async def told(story: Story) -> None:
    """What is asked of an open outbox."""
    await story.append("a1", "a2", "a3")
    await story.append("b1", "b2", buffered=True)
    await story.append("c1", answer=b"yes")
    await story.roll_up(10, 20)
    await story.append("a1", "a2", "d1", value=2)
    await story.ship(UsageOutcome.ACCEPTED, retriable=True)
    await story.ship(UsageOutcome.ACCEPTED, UsageOutcome.INVALID, UsageOutcome.DUPLICATE)
    await story.append("e1", "b1", atomic=True, value=3)
    await story.append("f1", "f2", "f3", "f4", buffered=True)
    await story.first_answer("c1")
    await story.roll_up(100, buffered=True)
    await story.roll_up(1000)
    await story.ship(UsageOutcome.QUARANTINED)
    await story.append(*(f"g{n}" for n in range(12)))
    await story.append("h1", buffered=True)
    await story.ship(UsageOutcome.ACCEPTED)
    await story.append("i1")


def _large(one: OutboxRecord) -> OutboxRecord:
    """Several pages, for those whose name says so."""
    if not one.event.id.startswith("g"):
        return one
    return replace(one, event=replace(one.event, dimensions={"text": LARGE}))
