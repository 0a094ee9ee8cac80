"""The outbox's file against a model: any order of appends, windows, settlements, losses and restarts."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import epoch_of, place_of, sequence_of
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_file import OutboxFile
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Call, Kept, kept
from entitlement_sidecar.sidecar.usage.outbox import Batch, OutboxRecord, SequenceRange
from support.usage import NOW, event

MIB = 1 << 20
LONG_AGO = NOW - timedelta(days=1)
FATES = [
    (UsageOutcome.ACCEPTED, False),
    (UsageOutcome.DUPLICATE, False),
    (UsageOutcome.INVALID, False),
    (UsageOutcome.QUARANTINED, False),
    (UsageOutcome.UNKNOWN_METRIC, True),
]
TENANTS = "abcd"
"""One for each lane."""

TOTALS = """
SELECT epoch, accepted, settled, dead, lost,
       (SELECT count(*) FROM records WHERE place >> 40 = epoch),
       (SELECT count(*) FROM dead_letters WHERE place >> 40 = epoch)
FROM epochs ORDER BY epoch
"""

Fact = tuple[str, str, int]
"""Tenant, id and value of an event."""

one_fact = st.tuples(st.sampled_from(TENANTS), st.sampled_from("uvwxyz"), st.integers(1, 2))
some_facts = st.lists(one_fact, min_size=1, max_size=6)
some_fates = st.lists(st.sampled_from(FATES), min_size=12, max_size=12)
some_ranges = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 8)), min_size=1, max_size=3)


class Waiting(msgspec.Struct):
    """An event of the model. A rollup has no id that anyone gave."""

    tenant: str
    id: str
    value: int
    count: int = 1
    second: int | None = None


class Books(msgspec.Struct):
    """What became of the events of a start."""

    accepted: int = 0
    settled: int = 0
    dead: int = 0
    lost: int = 0


def row(fact: Fact, second: int, *, rollup: bool = False) -> Kept:
    """An event as the file takes it."""
    tenant, name, value = fact
    at = NOW + timedelta(seconds=second)
    made = msgspec.structs.replace(
        event(name, tenant_id=tenant, value=value), recorded_at=at, occurred_at=at if rollup else LONG_AGO
    )
    return kept(OutboxRecord(made, rollup=rollup))


class OutboxMachine(RuleBasedStateMachine):
    """The model: what waits, by place; dead letters; the window under way; and the books of each start."""

    @initialize()
    def open(self) -> None:
        """An empty file, and an empty model."""
        self.folder = Path(tempfile.mkdtemp(prefix="outbox"))
        self.file = OutboxFile(self.folder / "outbox.db")
        self.queued: dict[int, Waiting] = {}
        self.dead: dict[int, Waiting] = {}
        self.never: set[int] = set()
        self.books: dict[int, Books] = {1: Books()}
        self.window: dict[int, list[int]] = {}
        self.second = self.settlements = 0

    def teardown(self) -> None:
        """Leaves nothing behind."""
        if hasattr(self, "file"):
            self.file.close()
            shutil.rmtree(self.folder)

    @property
    def now(self) -> Books:
        """The books of this start."""
        return self.books[self.file.epoch]

    def _queue(self, waiting: Waiting) -> None:
        self.now.accepted += 1
        self.queued[place_of(self.file.epoch, self.now.accepted)] = waiting

    def _held(self) -> dict[tuple[str, str], int]:
        return {(one.tenant, one.id): one.value for one in self.queued.values() if one.second is None}

    @rule(facts=some_facts, durable=st.booleans())
    def append(self, facts: list[Fact], durable: bool) -> None:
        """New identities are accepted; held ones are told apart by their content."""
        expected = []
        for tenant, name, value in facts:
            before = self._held().get((tenant, name))
            if before is None:
                self._queue(Waiting(tenant, name, value))
                expected.append(UsageOutcome.ACCEPTED)
            else:
                expected.append(UsageOutcome.DUPLICATE if before == value else UsageOutcome.CONFLICT)
        rows = [row(fact, self.second) for fact in facts]
        [results] = self.file.append([Call(rows)], durable=durable)
        assert [result.outcome for result in results] == expected

    @rule(facts=some_facts)
    def append_all_or_nothing(self, facts: list[Fact]) -> None:
        """One conflict with what is held, or among themselves, and nothing is kept."""
        wanted = self._held()
        before = set(wanted)
        conflicts = [wanted.setdefault((tenant, name), value) != value for tenant, name, value in facts]
        rows = [row(fact, self.second) for fact in facts]
        [results] = self.file.append([Call(rows, atomic=True)], durable=True)
        assert [result.outcome is UsageOutcome.CONFLICT for result in results] == conflicts
        if not any(conflicts):
            for (tenant, name), value in wanted.items():
                if (tenant, name) not in before:
                    self._queue(Waiting(tenant, name, value))

    @rule(facts=some_facts)
    def roll_up(self, facts: list[Fact]) -> None:
        """What is alike in a second that is open becomes one record; nothing else changes."""
        for tenant, _, value in facts:
            grows = next(
                (one for one in self.queued.values() if (one.tenant, one.second) == (tenant, self.second)),
                None,
            )
            if grows is None:
                self._queue(Waiting(tenant, "", value, second=self.second))
            else:
                grows.value += value
                grows.count += 1
        rows = [row(fact, self.second, rollup=True) for fact in facts]
        [results] = self.file.append([Call(rows)], durable=True)
        assert {result.outcome for result in results} == {UsageOutcome.ACCEPTED}

    @rule()
    def pass_time(self) -> None:
        """A second is over."""
        self._close_seconds()

    def _close_seconds(self) -> None:
        self.second += 1

    @rule(size=st.integers(1, 4))
    def look(self, size: int) -> None:
        """The oldest window; its boundaries never change."""
        self._next(size)

    @precondition(lambda self: self.queued)
    @rule(size=st.integers(1, 4), at=st.integers(0, 3), fates=some_fates)
    def settle(self, size: int, at: int, fates: list[tuple[UsageOutcome, bool]]) -> None:
        """What is not retriable leaves, one way or the other; any batch of the window may be first."""
        batches = self._next(size)
        if not batches:
            return
        batch = batches[at % len(batches)]
        results = [
            UsageResult(one.event.id, outcome, "", retriable)
            for one, (outcome, retriable) in zip(batch.events, fates, strict=False)
        ]
        self.settlements += 1
        self.file.settle(batch, results, self.settlements)
        for one, result in zip(batch.events, results, strict=True):
            if not result.retriable:
                self._leave(batch, place_of(batch.epoch, one.sequence), result.outcome)

    def _leave(self, batch: Batch, place: int, outcome: UsageOutcome) -> None:
        waiting = self.queued.pop(place)
        self.window[batch.batch_id].remove(place)
        if outcome is UsageOutcome.INVALID:
            self.dead[place] = waiting
            self.books[batch.epoch].dead += 1
        else:
            self.books[batch.epoch].settled += 1

    def _next(self, size: int) -> Sequence[Batch]:
        batches = self.file.next_batches(size, MIB, int(NOW.timestamp()) + self.second)
        self.window = {batch_id: places for batch_id, places in self.window.items() if places}
        seen = {
            batch.batch_id: [place_of(batch.epoch, one.sequence) for one in batch.events] for batch in batches
        }
        if self.window:
            assert seen == self.window
        else:
            self._is_a_window(list(seen.values()), size)
            self.window = seen
        for batch in batches:
            self._is_told_as_kept(batch)
        return batches

    def _is_a_window(self, batches: list[list[int]], size: int) -> None:
        """The oldest of what may travel, without a gap, of one start; each tenant in one batch."""
        places = sorted(place for batch in batches for place in batch)
        free: list[int] = []
        for place, one in self.queued.items():
            if one.second == self.second:
                break
            free.append(place)
        assert places == free[: len(places)]
        assert bool(places) == bool(free)
        assert len({epoch_of(place) for place in places}) <= 1
        tenants = [{self.queued[place].tenant for place in batch} for batch in batches]
        assert sum(map(len, tenants)) == len(set().union(*tenants))
        assert all(1 <= len(batch) <= size and batch == sorted(batch) for batch in batches)

    def _is_told_as_kept(self, batch: Batch) -> None:
        for one in batch.events:
            kept_as = self.queued[place_of(batch.epoch, one.sequence)]
            assert (one.event.tenant_id, one.event.value, one.event.count) == (
                kept_as.tenant,
                kept_as.value,
                kept_as.count,
            )
            if kept_as.second is None:
                assert one.event.id == kept_as.id
            else:
                kept_as.id = kept_as.id or one.event.id
                assert one.event.id == one.event.correlation_id == kept_as.id
        books = self.books[batch.epoch]
        assert (batch.accepted_total, batch.dead_total) == (books.accepted, books.dead)

    @rule(back=st.integers(0, 2), ranges=some_ranges)
    def declare(self, back: int, ranges: list[tuple[int, int]]) -> None:
        """What is queued is on its way; everything else that is asked for will not come, or is lost."""
        epoch = max(1, self.file.epoch - back)
        books = self.books[epoch]
        asked = [SequenceRange(first, first + more) for first, more in ranges]
        told = self.file.declare(self.file.instance, epoch, asked)
        wanted = {n for one in asked for n in range(one.first, one.last + 1)}
        expected = {n for n in wanted if place_of(epoch, n) not in self.queued}
        assert {n for one in told for n in range(one.first, one.last + 1)} == expected
        for number in expected:
            place = place_of(epoch, number)
            if number <= books.accepted and place not in self.dead and place not in self.never:
                books.settled -= 1
                books.lost += 1
                self.never.add(place)

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def revive(self, data: st.DataObject) -> None:
        """Dead letters come back at new places, once per identity, and none that waits already."""
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.dead)), min_size=1))
        held = set(self._held())
        expected = 0
        for place in sorted(chosen):
            one = self.dead[place]
            if one.second is None and (one.tenant, one.id) in held:
                continue
            held.add((one.tenant, one.id))
            expected += 1
            self._unearth(place).settled += 1
            self._queue(msgspec.structs.replace(one, second=None if one.second is None else -1))
        assert self.file.revive(sorted(chosen)) == expected

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        """Dead letters that are given up are lost."""
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.dead)), min_size=1))
        assert self.file.discard([*chosen, place_of(99, 1)]) == len(chosen)
        for place in chosen:
            self._unearth(place).lost += 1

    def _unearth(self, place: int) -> Books:
        del self.dead[place]
        self.never.add(place)
        books = self.books[epoch_of(place)]
        books.dead -= 1
        return books

    @rule()
    def restart(self) -> None:
        """Everything is still there, under the same identity; no record of an earlier start can grow."""
        instance, epoch = self.file.instance, self.file.epoch
        self.file.close()
        self.file = OutboxFile(self.folder / "outbox.db")
        self.books[epoch + 1] = Books()
        for one in self.queued.values():
            one.second = None if one.second is None else -1
        assert (self.file.instance, self.file.epoch) == (instance, epoch + 1)

    @rule(truncate=st.booleans())
    def checkpoint(self, truncate: bool) -> None:
        """Changes nothing that anyone can see."""
        self.file.checkpoint(truncate=truncate)

    @invariant()
    def conserves(self) -> None:
        """Accepted = settled + queued + dead + lost, of each start, in the file as in the model."""
        if not hasattr(self, "file"):
            return
        waiting = Counter(map(epoch_of, self.queued))
        buried = Counter(map(epoch_of, self.dead))
        assert self.file._run_text(TOTALS) == [
            (epoch, one.accepted, one.settled, one.dead, one.lost, waiting[epoch], buried[epoch])
            for epoch, one in self.books.items()
        ]
        for epoch, one in self.books.items():
            assert one.accepted == one.settled + one.dead + one.lost + waiting[epoch]
        assert self.file.queued == len(self.queued)
        assert all(sequence_of(place) <= self.books[epoch_of(place)].accepted for place in self.queued)


OutboxMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestOutboxMachine = OutboxMachine.TestCase
