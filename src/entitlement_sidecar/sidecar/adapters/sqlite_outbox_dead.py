"""Dead letters of the outbox's file: back into the queue, or given up for good.

The place that a dead letter had is never sent, whatever becomes of it: it is declared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from entitlement_sidecar.sidecar.adapters.sqlite_outbox_database import OutboxDatabase, encode, epoch_of
from entitlement_sidecar.sidecar.adapters.sqlite_outbox_rows import Row
from entitlement_sidecar.sidecar.usage.window import lane_of
from entitlement_sidecar.wire.codec import microseconds


def revive(file: OutboxDatabase, places: Sequence[int], first_place: int) -> int:
    """Queues dead letters again, from a place on, with their identity. Their old places count as settled.

    One whose identity is queued already stays. How many were revived.
    """
    with file.transaction(durable=True):
        letters = file.run("revivable", encode(places).decode())
        if not letters:
            return 0
        records = [_record(place, letter) for place, letter in enumerate(letters, first_place)]
        sums = [
            (place, letter[-2], letter[-1])
            for place, letter in enumerate(letters, first_place)
            if letter[-1] is not None
        ]
        file.insert("insert_records", records)
        file.run("grow", encode(sums).decode())
        file.run("count_accepted", len(records), epoch_of(first_place))
        _unearth(file, [letter[0] for letter in letters], "count_revived")
    return len(letters)


def discard(file: OutboxDatabase, places: Sequence[int]) -> int:
    """Forgets dead letters; they are lost. How many."""
    with file.transaction(durable=True):
        buried = [place for (place,) in file.run("buried", encode(places).decode())]
        _unearth(file, buried, "count_discarded")
    return len(buried)


def _unearth(file: OutboxDatabase, places: list[int], count: str) -> None:
    encoded = encode(places).decode()
    file.run("declare_places", encoded)
    file.run("unearth", encoded)
    for epoch, number in Counter(map(epoch_of, places)).items():
        file.run(count, number, epoch)


def _record(place: int, letter: tuple[Any, ...]) -> tuple[Any, ...]:
    _, tenant_id, event_id, payload, value, count = letter
    event = Row(event_id, payload, value, count).event()
    digest = event.digest() if value is None else b""
    lane = lane_of(tenant_id, event.metric)
    return place, tenant_id, event_id, digest, microseconds(event.recorded_at), payload, lane
