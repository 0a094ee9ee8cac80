"""The outbox's file, for one thread at a time. Every method is one transaction.

    append ──▶ records ──next_batch──▶ + batches ──settle──▶ (deleted) | dead_letters
                  └─ consumptions: first answers of CONSUMEs, until a while after their event has left

Totals per epoch are written in the same transactions: accepted = settled + dead + what `records` holds.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.adapters.sqlite_files import (
    CorruptFileError,
    load_statements,
    open_private,
    transaction,
)
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Call, Kept, judge
from entitlement_sidecar.sidecar.usage.gaps import Known, clipped, count_of, joined, sort_out
from entitlement_sidecar.sidecar.usage.outbox import Batch, SequencedEvent, SequenceRange
from entitlement_sidecar.wire.codec import event_from_proto
from entitlement_sidecar.wire.v1 import usage_pb2

SETTLED = frozenset(
    {
        UsageOutcome.ACCEPTED,
        UsageOutcome.DUPLICATE,
        UsageOutcome.LATE_ACCEPTED,
        UsageOutcome.QUARANTINED,  # the plan store keeps it for operators
    }
)
"""Outcomes after which the plan store answers for an event."""

_APPLICATION_ID = 0x454E544F  # "ENTO"
_SCHEMA_VERSION = 2
_SEQUENCE_BITS = 40
_SEQUENCE_MASK = (1 << _SEQUENCE_BITS) - 1
_LARGEST_INSERT = 512
_CHECK_UP_TO = 64 << 20
"""Bytes up to which a file is checked in full at the start; a larger one would delay it."""

_SQL = load_statements("sqlite_outbox.sql")
_json = msgspec.json.Encoder()


class _HeldError(Exception):
    """Some of the identities to insert are held already."""


def read_statement(name: str) -> str:
    """A statement of `sqlite_outbox.sql`."""
    return _SQL[name]


class OutboxFile:
    """An open file and the epoch that opening it began. Raises what `sqlite3` raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self.bytes_used = 0
        self._db = open_private(path)
        try:
            self._prepare()
            self._begin()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        is_new = not self._run_text("SELECT 1 FROM sqlite_schema LIMIT 1")
        if not is_new:
            self._recognise()
        if self._pragma("journal_mode", "WAL") != "wal":
            raise ConfigurationError(
                f"{self._path}: this file system cannot hold the outbox; give a folder on a local disk"
            )
        # Checkpoints are taken between groups, never inside a commit that someone waits for.
        self._pragma("wal_autocheckpoint", 0)
        self._pragma("cache_size", -8000)
        self._durable = True
        self._pragma("synchronous", "FULL")
        if is_new:
            self._create()
        elif self._pragma("user_version") < _SCHEMA_VERSION:
            self._migrate()

    def _recognise(self) -> None:
        if self._pragma("application_id") != _APPLICATION_ID:
            raise CorruptFileError("not an outbox")
        if self._pragma("user_version") > _SCHEMA_VERSION:
            raise ConfigurationError(
                f"{self._path}: written by a newer version; start that version, or give another --state-dir"
            )
        if self._path.stat().st_size <= _CHECK_UP_TO and self._pragma("quick_check") != "ok":
            raise CorruptFileError("the file fails its check")

    def _create(self) -> None:
        with self._transaction(durable=True):
            self._run_all("schema")
            self._run("new_instance", str(uuid.uuid4()))
            self._pragma("application_id", _APPLICATION_ID)
            self._pragma("user_version", _SCHEMA_VERSION)

    def _migrate(self) -> None:
        with self._transaction(durable=True):
            self._run_all("schema_2")
            self._pragma("user_version", _SCHEMA_VERSION)

    def _run_all(self, name: str) -> None:
        for statement in filter(str.strip, _SQL[name].split(";")):
            self._db.execute(statement)

    def _begin(self) -> None:
        with self._transaction(durable=True):
            [(epoch,)] = self._run("begin_epoch")
            self._run("forget_settlements")
            [(instance,)] = self._run("read_instance")
            [(accepted, settled, dead, lost)] = self._run("totals")
        self.epoch, self.instance = int(epoch), str(instance)
        self.accepted, self.settled, self.dead = int(accepted), int(settled), int(dead)
        self.lost = int(lost)
        self._sequence = 0

    @property
    def queued(self) -> int:
        """Events that the plan store has not settled."""
        return self.accepted - self.settled - self.dead - self.lost

    @property
    def wal_bytes(self) -> int:
        """Size of the write-ahead log, in which commits wait for a checkpoint; 0 where nobody can say."""
        try:
            return os.stat(self._wal).st_size  # noqa: PTH116 - called for every group
        except OSError:
            return 0

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
        first = (self.epoch << _SEQUENCE_BITS) + self._sequence + 1
        values = [
            (place, row.tenant_id, row.event_id, row.digest, row.recorded_at, row.payload)
            for place, row in enumerate(rows, first)
        ]
        answers = [
            (row.tenant_id, row.event_id, row.consumption.quantity, row.consumption.answer)
            for row in rows
            if row.consumption is not None
        ]
        with self._transaction(durable=durable):
            if self._insert("insert_records", values) < len(values):
                raise _HeldError
            self._insert("insert_consumptions", answers)
            self._run("count_accepted", len(values), self.epoch)
        self._sequence += len(values)
        self.accepted += len(values)

    def _tell_apart(self, calls: Sequence[Call]) -> tuple[list[list[UsageResult]], list[Kept]]:
        rows = [row for call in calls for row in call.rows]
        keys = _json.encode([(row.tenant_id, row.event_id) for row in rows]).decode()
        [(found,)] = self._run("held", keys)
        pairs = (pair.split(" ") for pair in (found or "").split(",") if pair)
        held = {
            (rows[int(at)].tenant_id, rows[int(at)].event_id): bytes.fromhex(digest) for at, digest in pairs
        }
        results, fresh = [], []
        for call in calls:
            told, new = judge(call, held)
            results.append(told)
            fresh += new
            held.update({(row.tenant_id, row.event_id): row.digest for row in new})
        return results, fresh

    def next_batches(self, max_events: int, max_bytes: int) -> list[Batch]:
        """The batch that was not settled in full; else a new one, stored before it is returned."""
        stored = self._run("oldest_batch")
        if not stored and (bounds := self._bounds(max_events, max_bytes)):
            with self._transaction(durable=True):
                [(batch_id,)] = self._run("store_batch", *bounds)
            stored = [(batch_id, *bounds)]
        return [self._load(*stored[0])] if stored else []

    def _bounds(self, max_events: int, max_bytes: int) -> tuple[int, int] | None:
        """First and last place of the next batch: of one epoch, of one event at least."""
        [(first,)] = self._run("first_place")
        if first is None:
            return None
        [(sizes,)] = self._run("sizes", first, first | _SEQUENCE_MASK, max_events)
        last, total = first, 0
        for pair in sizes.split(","):
            place, size = map(int, pair.split(" "))
            total += size
            if total > max_bytes and place != first:
                break
            last = place
        return first, last

    def _load(self, batch_id: int, first: int, last: int) -> Batch:
        [(places, payloads)] = self._run("payloads", first, last)
        epoch = first >> _SEQUENCE_BITS
        [(accepted, dead)] = self._run("accepted_in", epoch)
        parse = usage_pb2.UsageEvent.FromString
        events = tuple(
            SequencedEvent(int(place) & _SEQUENCE_MASK, event_from_proto(parse(bytes.fromhex(payload))))
            for place, payload in zip(places.split(","), payloads.split(","), strict=True)
        )
        return Batch(self.instance, epoch, batch_id, events, accepted, dead)

    def settle(self, batch: Batch, results: Sequence[UsageResult], settlement: int) -> None:
        """Deletes settled events and buries refused ones.

        A batch that was settled before changes nothing, nor does one of a file that was set aside meanwhile.
        """
        if batch.instance != self.instance:
            return
        base = batch.epoch << _SEQUENCE_BITS
        settled, refused = [], []
        for event, result in zip(batch.events, results, strict=True):
            place = base + event.sequence
            if result.retriable:
                continue
            if result.outcome in SETTLED:
                settled.append(place)
            else:
                refused.append((place, int(result.outcome), result.reason))
        with self._transaction(durable=False):
            self._run("bury", _json.encode(refused).decode())
            dead = self._remove([place for place, _, _ in refused], settlement)
            gone = self._remove(settled, settlement)
            self._run("count_settled", gone, dead, batch.epoch)
            self._run("close_batch", batch.batch_id)
        self.settled += gone
        self.dead += dead

    def declare(
        self, instance: str, epoch: int, ranges: Sequence[SequenceRange]
    ) -> tuple[SequenceRange, ...]:
        """Which of these sequences will not come. Counts as lost, once, what was settled here."""
        if instance != self.instance:
            return ()
        [(accepted, _)] = self._run("accepted_in", epoch) or [(0, 0)]
        base = epoch << _SEQUENCE_BITS
        gaps = [sort_out(one, self._known(base, one), accepted) for one in clipped(ranges)]
        lost = [one for gap in gaps for one in gap.lost]
        if lost:
            with self._transaction(durable=True):
                self._insert("declare", [(base + one.first, base + one.last) for one in lost])
                self._run("count_lost", count_of(lost), epoch)
            self.settled -= count_of(lost)
            self.lost += count_of(lost)
        return joined([one for gap in gaps for one in gap.declared])

    def _known(self, base: int, missing: SequenceRange) -> list[Known]:
        rows = self._run("known_places", base + missing.first, base + missing.last)
        return [(first - base, last - base, state) for first, last, state in rows]

    def _remove(self, places: list[int], settlement: int) -> int:
        encoded = _json.encode(places).decode()
        self._run("settle_consumptions", settlement, encoded)
        return self._db.execute(_SQL["delete_records"], (encoded,)).rowcount

    def purge_consumptions(self, settlement: int) -> None:
        """Forgets first answers of that settlement and of all before."""
        with self._transaction(durable=False):
            self._run("purge_consumptions", settlement)

    def checkpoint(self, *, truncate: bool) -> None:
        """Moves commits from the log into the file; with `truncate` the log gives its space back."""
        self._run_text(f"PRAGMA wal_checkpoint({'TRUNCATE' if truncate else 'PASSIVE'})")
        self._measure()

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[None]:
        if durable != self._durable:
            # NORMAL leaves fsync to the next checkpoint: a killed process loses nothing, a lost machine may.
            self._pragma("synchronous", "FULL" if durable else "NORMAL")
            self._durable = durable
        with transaction(self._db):
            yield
        self._measure()

    def _measure(self) -> None:
        # What is committed stays committed, whether or not its size can be told: the last one known stands.
        with suppress(sqlite3.Error):
            [(pages, size)] = self._run("live_pages")
            self.bytes_used = int(pages * size) + self.wal_bytes

    def _insert(self, name: str, values: Sequence[tuple[Any, ...]]) -> int:
        """Inserts rows with few statements, for the reason that `sqlite_outbox.sql` gives."""
        inserted = start = 0
        for size in _runs(len(values)):
            row = "(" + ",".join("?" * len(values[0])) + ")"
            statement = _SQL[name].replace("{rows}", ",".join([row] * size))
            parameters = tuple(chain.from_iterable(values[start : start + size]))
            inserted += self._db.execute(statement, parameters).rowcount
            start += size
        return inserted

    def _run(self, name: str, *parameters: Any) -> list[Any]:  # noqa: ANN401 - what a statement takes
        return self._db.execute(_SQL[name], parameters).fetchall()

    def _run_text(self, statement: str) -> list[Any]:
        return self._db.execute(statement).fetchall()

    def _pragma(self, name: str, value: str | int | None = None) -> Any:  # noqa: ANN401 - any setting's value
        rows = self._run_text(f"PRAGMA {name}" if value is None else f"PRAGMA {name}={value}")
        return rows[0][0] if rows else None


def _runs(count: int) -> Iterator[int]:
    """Powers of two that add up to a count: few sizes, so that prepared statements are found again."""
    size = _LARGEST_INSERT
    while count:
        while size > count:
            size //= 2
        yield size
        count -= size
