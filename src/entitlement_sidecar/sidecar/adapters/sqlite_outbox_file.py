"""The outbox's file, for one thread at a time. Every method is one transaction.

    append ──▶ records ──next_batches──▶ + batches ──settle──▶ (deleted) | dead_letters ──revive──▶ records
                  └─ consumptions: first answers of CONSUMEs, until a while after their event has left

Totals per epoch are written with it: accepted = settled + dead + lost + what `records` holds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import (
    OutboxDatabase,
    encode,
    place_of,
)
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_dead import discard, revive
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_leases import OpenLeases, count_uses, review
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_placing import Placed, Placing
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import (
    Call,
    Held,
    Kept,
    has_identity,
    identities,
    judge,
)
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_windows import next_batches
from entitlement_sidecar.sidecar.usage.gaps import Known, clipped, count_of, joined, sort_out
from entitlement_sidecar.sidecar.usage.outbox import (
    SETTLED,
    Batch,
    SequenceRange,
    are_many,
    check_dead_letters,
)

_ROW_BYTES = 600
"""Bytes that a record takes beside its payload, in the file and in its log, roughly."""
_LARGEST_PART = 500
"""Dead letters of one transaction at most."""

_log = logging.getLogger(__name__)


class _HeldError(Exception):
    """Some of the identities to insert are held already."""


class OutboxFile(OutboxDatabase):
    """An open file and the epoch that opening it began. Raises what `sqlite3` raises.

    Uses of leases are counted for those that `leases` says this process has opened.
    """

    def __init__(self, path: Path, leases: OpenLeases | None = None) -> None:
        super().__init__(path)
        self._leases = OpenLeases() if leases is None else leases
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        with self.transaction(durable=True):
            review(self, self._path, sound=self._balance())
            self.run("close_empty_batches")
            [(epoch,)] = self.run("begin_epoch")
            self.run("forget_settlements")
            [(instance,)] = self.run("read_instance")
        self.epoch, self.instance = int(epoch), str(instance)
        self.merged = 0
        self._placing = Placing(self.instance, place_of(self.epoch, 1))
        self._leases.found_in(self)
        self._count()

    def _balance(self) -> bool:
        """Corrects totals that do not fit what is held: what is missing is lost, and said.

        Returns:
            Whether they fit.
        """
        if not self.run("unbalanced")[0][0]:
            return True
        for epoch, accepted, rest in self.run("balances"):
            _log.error(
                "the outbox accepted %d events in epoch %d, but what became of them adds up to %d: corrected",
                accepted,
                epoch,
                rest,
            )
        self.run("balance")
        return False

    def _count(self) -> None:
        [(accepted, settled, dead, lost)] = self.run("totals")
        self.accepted, self.settled, self.dead, self.lost = accepted, settled, dead, lost

    @property
    def queued(self) -> int:
        """Events that the plan store has not settled."""
        return int(self.accepted - self.settled - self.dead - self.lost)

    def append(self, calls: Sequence[Call], *, durable: bool) -> list[list[UsageResult]]:
        """Keeps events in order, of several calls in one transaction; one list of outcomes per call.

        Those whose identity is held are told apart by their digest.
        """
        try:
            self._keep([row for call in calls for row in call.rows], durable=durable)
            return [[UsageResult(row.event_id, UsageOutcome.ACCEPTED) for row in call.rows] for call in calls]
        except _HeldError:
            results, fresh = self._tell_apart(calls)
        if fresh:
            self._keep(fresh, durable=durable)
        return results

    def _keep(self, rows: Sequence[Kept], *, durable: bool) -> None:
        placed = self._placing.place(rows)
        uses = self._leases.uses(rows)
        unmarked = [] if durable else self._leases.unmarked(uses)
        grows = sum(len(row.payload) for row in rows) + _ROW_BYTES * len(rows)
        with self.transaction(durable=durable or bool(unmarked), grows=grows):
            self._write(placed)
            if uses:
                count_uses(self, self._leases.numbered(uses), unmarked)
        self._leases.mark(unmarked)
        self._placing.keep(placed)
        self.accepted += len(placed.records)
        self.merged += placed.merged

    def _write(self, placed: Placed) -> None:
        if self.insert("insert_records", placed.records) < len(placed.records):
            raise _HeldError
        self.insert("insert_consumptions", placed.answers)
        if self.insert("insert_consumptions", placed.rolled_answers) < len(placed.rolled_answers):
            raise _HeldError
        if placed.grown:
            self.run(
                "grow", encode([(one.place, one.value, one.count) for one in placed.grown.values()]).decode()
            )
        self.run("count_accepted", len(placed.records), self.epoch)

    def _tell_apart(self, calls: Sequence[Call]) -> tuple[list[list[UsageResult]], list[Kept]]:
        held = self._held([row for call in calls for row in call.rows if has_identity(row)])
        results, fresh = [], []
        for call in calls:
            told, new = judge(call, held)
            results.append(told)
            fresh += new
            held.update(identities(new))
        return results, fresh

    def _held(self, rows: Sequence[Kept]) -> Held:
        keys = encode([(row.tenant_id, row.event_id, row.rollup is not None) for row in rows]).decode()
        [(found,)] = self.run("held", keys)
        pairs = (pair.split(" ") for pair in (found or "").split(",") if pair)
        return {
            (rows[int(at)].tenant_id, rows[int(at)].event_id): bytes.fromhex(digest) for at, digest in pairs
        }

    def next_batches(self, max_events: int, max_bytes: int, second: int | None = None) -> list[Batch]:
        """The batches of the oldest window that are not settled in full; else of a new one.

        Args:
            max_events: Events of one batch at most.
            max_bytes: Bytes of one batch at most, but for one event that is larger.
            second: The present one, since 1970: rollups of it can still grow and do not travel.

        Raises:
            OutboxStoppedError: Too much was refused as invalid.
        """
        if are_many(self.dead, self.accepted):
            [(invalid,)] = self.run("dead_of_outcome", int(UsageOutcome.INVALID))
            check_dead_letters(invalid, self.accepted)
        if second is not None:
            self._placing.rollups.close_all_but(second)
        before = self._placing.rollups.first_place()
        return next_batches(self, self.instance, (max_events, max_bytes), before)

    def settle(self, batch: Batch, results: Sequence[UsageResult], settlement: int) -> None:
        """Deletes settled events and buries refused ones.

        A batch that was settled before changes nothing, nor does one of a file that was set aside meanwhile.
        """
        if batch.instance != self.instance:
            return
        settled, refused = _sort(batch, results)
        with self.transaction(durable=False):
            self.run("bury", encode(refused).decode())
            dead = self._remove([place for place, _, _ in refused], settlement)
            gone = self._remove(settled, settlement)
            self.run("count_settled", gone, dead, batch.epoch)
            self.run("close_batch", batch.batch_id)
        self.settled += gone
        self.dead += dead

    def _remove(self, places: list[int], settlement: int) -> int:
        encoded = encode(places).decode()
        self.run("settle_consumptions", settlement, encoded)
        self.run("settle_rolled_consumptions", settlement, encoded)
        return self.change("delete_records", encoded)

    def declare(
        self, instance: str, epoch: int, ranges: Sequence[SequenceRange]
    ) -> tuple[SequenceRange, ...]:
        """Which of these sequences will not come. Counts as lost, once, what was settled here."""
        if instance != self.instance:
            return ()
        [(accepted, _)] = self.run("totals_of", epoch) or [(0, 0)]
        base = place_of(epoch, 0)
        gaps = [sort_out(one, self._known(base, one), accepted) for one in clipped(ranges)]
        lost = [one for gap in gaps for one in gap.lost]
        if lost:
            with self.transaction(durable=True):
                self.insert("declare", [(base + one.first, base + one.last) for one in lost])
                self.run("count_lost", count_of(lost), epoch)
            self._count()
        return joined([one for gap in gaps for one in gap.declared])

    def _known(self, base: int, missing: SequenceRange) -> list[Known]:
        rows = self.run("known_places", base + missing.first, base + missing.last)
        return [(first - base, last - base, state) for first, last, state in rows]

    def revive(self, places: Iterable[int]) -> int:
        """Puts dead letters back into the queue, each with its identity and a new place. How many.

        One whose identity is queued again already stays where it is.
        """
        try:
            return sum(map(self._revive, _parts(places)))
        finally:
            self._count()

    def _revive(self, places: Sequence[int]) -> int:
        revived = revive(self, places, self._placing.next_place)
        self._placing.next_place += revived
        return revived

    def discard(self, places: Iterable[int]) -> int:
        """Gives dead letters up for good; they count as lost. How many."""
        try:
            return sum(discard(self, part) for part in _parts(places))
        finally:
            self._count()

    def purge_consumptions(self, settlement: int) -> None:
        """Forgets first answers of that settlement and of all before."""
        with self.transaction(durable=False):
            self.run("purge_consumptions", settlement)


def _sort(batch: Batch, results: Sequence[UsageResult]) -> tuple[list[int], list[tuple[int, int, str]]]:
    """Places that are settled; and those that are refused for good, with outcome and reason."""
    settled, refused = [], []
    for event, result in zip(batch.events, results, strict=True):
        place = place_of(batch.epoch, event.sequence)
        if result.retriable:
            continue
        if result.outcome in SETTLED:
            settled.append(place)
        else:
            refused.append((place, int(result.outcome), result.reason))
    return settled, refused


def _parts(places: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """Parts of a bounded size: each is one transaction."""
    waiting = iter(places)
    while part := tuple(islice(waiting, _LARGEST_PART)):
        yield part
