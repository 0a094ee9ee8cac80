"""Windows of the outbox's file: what travels next, in which batches; stored before anyone sees it."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from entitlement_sidecar.sidecar.adapters.sqlite_files import CorruptFileError
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import (
    OutboxDatabase,
    epoch_of,
    last_place_of,
    sequence_of,
)
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Row
from entitlement_sidecar.sidecar.usage.outbox import Batch, SequencedEvent
from entitlement_sidecar.sidecar.usage.window import LANES, Waiting, cut
from entitlement_sidecar.wire.v1 import usage_pb2


def next_batches(
    file: OutboxDatabase, instance: str, bounds: tuple[int, int], before: int | None
) -> list[Batch]:
    """The batches of the oldest window that are not settled in full; else those of a new one.

    Args:
        file: Where they are.
        instance: Its identity.
        bounds: Events and bytes of one batch at most.
        before: The first place that may not travel yet; None: all may.
    """
    stored = file.run("batches")
    if not stored:
        window = cut(_waiting(file, LANES * bounds[0], before), *bounds)
        if window is None:
            return []
        with file.transaction(durable=True):
            for lane in window.lanes:
                file.run("store_batch", window.first, window.last, lane)
        stored = file.run("batches")
    return [_load(file, instance, batch) for batch in stored]


def _waiting(file: OutboxDatabase, limit: int, before: int | None) -> Iterator[Waiting]:
    """What may travel next, of one epoch."""
    [(first,)] = file.run("first_place")
    if first is None:
        return
    last = last_place_of(epoch_of(first))
    [(sizes,)] = file.run("sizes", first, last if before is None else min(last, before - 1), limit)
    for entry in (sizes or "").split(",") if sizes else ():
        place, size, lane = map(int, entry.split(" "))
        yield Waiting(place, size, lane)


def _load(file: OutboxDatabase, instance: str, stored: tuple[int, int, int, int | None]) -> Batch:
    batch_id, first, last, lane = stored
    [(places, payloads, sums)] = file.run("payloads", first, last, lane)
    epoch = epoch_of(first)
    [(accepted, dead)] = file.run("totals_of", epoch)
    rows = zip(places.split(","), payloads.split(","), sums.split(","), strict=True)
    events = tuple(
        SequencedEvent(sequence_of(int(place)), _message(payload, total)) for place, payload, total in rows
    )
    return Batch(instance, epoch, batch_id, events, accepted, dead)


def _message(payload: str, total: str) -> usage_pb2.UsageEvent:
    """An event that waits.

    Raises:
        CorruptFileError: Its bytes are no event, though pages of the file looked well: the file is damaged.
    """
    try:
        return _row(payload, total).message()
    except (DecodeError, ValueError) as error:
        raise CorruptFileError("an event cannot be read") from error


def _row(payload: str, total: str) -> Row:
    """A row as one statement answers many: its payload in hex; of a rollup also identity, value and count."""
    content = bytes.fromhex(payload)
    if not total:
        return Row("", content, None, None)
    identity, value, count = total.split(" ")
    return Row(identity, content, int(value), int(count))
