"""The outbox's file against a list: any order of appends, batches, settlements and restarts."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_file import OutboxFile
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Call, Kept
from entitlement_sidecar.sidecar.usage.outbox import Batch
from entitlement_sidecar.wire.codec import event_to_proto, microseconds
from support.usage import event

MIB = 1 << 20
FATES = [
    (UsageOutcome.ACCEPTED, False),
    (UsageOutcome.DUPLICATE, False),
    (UsageOutcome.INVALID, False),
    (UsageOutcome.QUARANTINED, False),
    (UsageOutcome.UNKNOWN_METRIC, True),
]


def kept(name: str, value: int) -> Kept:
    """An event as the file takes it."""
    fact = event(name, value=value)
    payload = event_to_proto(fact).SerializeToString()
    return Kept(fact.tenant_id, name, fact.digest(), microseconds(fact.recorded_at), payload)


class OutboxMachine(RuleBasedStateMachine):
    """The model: what is queued, in order, with its value; and how often each thing has happened."""

    @initialize()
    def open(self) -> None:
        """An empty file, and an empty model."""
        self.folder = Path(tempfile.mkdtemp(prefix="outbox"))
        self.file = OutboxFile(self.folder / "outbox.db")
        self.queued: dict[str, int] = {}
        self.accepted = self.settled = self.dead = self.settlements = 0
        self.batch: list[str] = []

    def teardown(self) -> None:
        """Leaves nothing behind."""
        self.file.close()
        shutil.rmtree(self.folder)

    @rule(
        facts=st.lists(st.tuples(st.sampled_from("abcdefghij"), st.integers(1, 2)), min_size=1, max_size=6),
        durable=st.booleans(),
    )
    def append(self, facts: list[tuple[str, int]], durable: bool) -> None:
        """New identities are accepted; held ones are told apart by their content."""
        expected = []
        for name, value in facts:
            if name not in self.queued:
                self.queued[name] = value
                self.accepted += 1
                expected.append(UsageOutcome.ACCEPTED)
            else:
                same = self.queued[name] == value
                expected.append(UsageOutcome.DUPLICATE if same else UsageOutcome.CONFLICT)
        [results] = self.file.append([Call([kept(*fact) for fact in facts])], durable=durable)
        assert [result.outcome for result in results] == expected

    @rule(facts=st.lists(st.tuples(st.sampled_from("abcdefghij"), st.integers(1, 2)), min_size=1, max_size=6))
    def append_all_or_nothing(self, facts: list[tuple[str, int]]) -> None:
        """One conflict with what is held, or among themselves, and nothing is kept."""
        wanted = dict(self.queued)
        conflicts = [wanted.setdefault(name, value) != value for name, value in facts]
        [results] = self.file.append([Call([kept(*fact) for fact in facts], atomic=True)], durable=True)
        assert [result.outcome is UsageOutcome.CONFLICT for result in results] == conflicts
        if not any(conflicts):
            self.accepted += len(wanted) - len(self.queued)
            self.queued = wanted

    @rule(size=st.integers(1, 4))
    def look(self, size: int) -> None:
        """The oldest batch, in order; its boundaries never change."""
        self._next(size)

    @precondition(lambda self: self.queued)
    @rule(size=st.integers(1, 4), fates=st.lists(st.sampled_from(FATES), min_size=10, max_size=10))
    def settle(self, size: int, fates: list[tuple[UsageOutcome, bool]]) -> None:
        """What is not retriable leaves, one way or the other."""
        batch = self._next(size)
        assert batch is not None
        results = [
            UsageResult(one.event.id, outcome, "", retriable)
            for one, (outcome, retriable) in zip(batch.events, fates, strict=False)
        ]
        self.settlements += 1
        self.file.settle(batch, results, self.settlements)
        for result in results:
            if not result.retriable:
                del self.queued[result.id]
                self.batch.remove(result.id)
                refused = result.outcome is UsageOutcome.INVALID
                self.dead += refused
                self.settled += not refused

    def _next(self, size: int) -> Batch | None:
        batch = next(iter(self.file.next_batches(size, MIB)), None)
        assert (batch is None) == (not self.queued)
        if batch is None:
            return None
        names = [one.event.id for one in batch.events]
        if self.batch:
            assert names == self.batch
        else:
            assert names == list(self.queued)[: len(names)]
            assert 1 <= len(names) <= size
            self.batch = names
        assert [one.event.value for one in batch.events] == [self.queued[name] for name in names]
        return batch

    @rule()
    def restart(self) -> None:
        """Everything is still there, under the same identity."""
        instance, epoch = self.file.instance, self.file.epoch
        self.file.close()
        self.file = OutboxFile(self.folder / "outbox.db")
        assert (self.file.instance, self.file.epoch) == (instance, epoch + 1)

    @rule(truncate=st.booleans())
    def checkpoint(self, truncate: bool) -> None:
        """Changes nothing that anyone can see."""
        self.file.checkpoint(truncate=truncate)

    @invariant()
    def conserves(self) -> None:
        """Accepted = settled + queued + dead."""
        if not hasattr(self, "file"):
            return
        assert (self.file.accepted, self.file.settled, self.file.queued, self.file.dead) == (
            self.accepted,
            self.settled,
            len(self.queued),
            self.dead,
        )


OutboxMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestOutboxMachine = OutboxMachine.TestCase
