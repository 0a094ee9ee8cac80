"""SnapshotService: one tenant, the catalogue, and the feed. Parse, call, map."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import grpc
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.errors import (
    ConflictError,
    CursorTrimmedError,
    ExhaustedError,
    InvalidInputError,
    SourceUnavailableError,
    TenantUnknownError,
    Violation,
)
from entitlement_sidecar.planstore.access import require_tenant
from entitlement_sidecar.planstore.api.calls import answering
from entitlement_sidecar.planstore.db import Database, TenantSnapshotRow
from entitlement_sidecar.planstore.snapshots.feed import (
    CATALOGUE,
    PAGE,
    Beats,
    FeedSignal,
    Place,
    SealedBeat,
    entries_after,
    feed_shards,
    newest_catalogue,
    oldest_kept,
    place,
    read_clock,
)
from entitlement_sidecar.planstore.usage.bulk import among
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import to_timestamp
from entitlement_sidecar.wire.fields import TENANT_FORM, expected, is_tenant
from entitlement_sidecar.wire.signing import KeyRing
from entitlement_sidecar.wire.status import abort
from entitlement_sidecar.wire.v1 import snapshot_pb2, snapshot_pb2_grpc

MAX_WATCHERS = 256
"""Watchers of one process: each holds a thread. Larger sites put Redis in front (DESIGN 13)."""

BEAT_EVERY = 1.0
"""Seconds between two heartbeats of a watcher."""

MAX_CONFIRMED = 1_000
"""Versions that one call may ask about."""

_Messages = Iterator[snapshot_pb2.WatchSnapshotsResponse]


class SnapshotServicer(snapshot_pb2_grpc.SnapshotServiceServicer):
    """What sidecars read."""

    def __init__(self, database: Database, trusted: KeyRing, beats: Beats, signal: FeedSignal) -> None:
        self._database = database
        self._trusted = trusted
        self._beats = beats
        self._signal = signal
        self._room = threading.BoundedSemaphore(MAX_WATCHERS)

    def GetSnapshot(  # noqa: N802 - the contract's name
        self, request: snapshot_pb2.GetSnapshotRequest, context: grpc.ServicerContext
    ) -> snapshot_pb2.GetSnapshotResponse:
        """The newest snapshot of one tenant."""
        with answering(context):
            if not is_tenant(request.tenant_id):
                raise InvalidInputError.of("tenant_id", expected(TENANT_FORM, request.tenant_id))
            require_tenant(request.tenant_id)
            # The clock is read first: what is read after it was the newest then, or newer.
            true_at = read_clock(self._database)
            with self._database.reading() as session:
                row = session.get(TenantSnapshotRow, request.tenant_id)
                if row is None:
                    _require_catalogue(session)
                    raise TenantUnknownError(request.tenant_id)
            if row.version < request.min_version:
                raise ConflictError(f"the newest version of {request.tenant_id!r} is {row.version}")
            envelope = snapshot_pb2.SignedEnvelope.FromString(row.envelope)
            return snapshot_pb2.GetSnapshotResponse(snapshot=envelope, true_at=to_timestamp(true_at))

    def ConfirmSnapshots(  # noqa: N802 - the contract's name
        self, request: snapshot_pb2.ConfirmSnapshotsRequest, context: grpc.ServicerContext
    ) -> snapshot_pb2.ConfirmSnapshotsResponse:
        """Which of many versions are not the newest, and which tenants do not exist."""
        with answering(context):
            _validate(request.held)
            for held in request.held:
                require_tenant(held.tenant_id)
            # As in GetSnapshot: what is found after it was the newest then, or newer.
            true_at = read_clock(self._database)
            newest = self._newest_versions([held.tenant_id for held in request.held])
            unknown = [held.tenant_id for held in request.held if held.tenant_id not in newest]
            if unknown:
                with self._database.reading() as session:
                    _require_catalogue(session)
            outdated = [
                held.tenant_id
                for held in request.held
                if newest.get(held.tenant_id, held.version) != held.version
            ]
            return snapshot_pb2.ConfirmSnapshotsResponse(
                outdated_tenant_ids=outdated, unknown_tenant_ids=unknown, true_at=to_timestamp(true_at)
            )

    def _newest_versions(self, tenants: Sequence[str]) -> dict[str, int]:
        with self._database.reading() as session:
            row = TenantSnapshotRow
            query = select(row.tenant_id, row.version).where(among(session, row.tenant_id, tenants))
            return {found.tenant_id: found.version for found in session.execute(query)}

    def GetCatalogue(  # noqa: N802 - the contract's name
        self, request: snapshot_pb2.GetCatalogueRequest, context: grpc.ServicerContext
    ) -> snapshot_pb2.GetCatalogueResponse:
        """The newest catalogue document, and the keys that may have signed what there is."""
        del request
        with answering(context):
            with self._database.reading() as session:
                document = newest_catalogue(session)
            response = snapshot_pb2.GetCatalogueResponse(
                keys=[
                    snapshot_pb2.SigningKey(key_id=key_id, public_key=raw)
                    for key_id, raw in self._trusted.public_keys.items()
                ]
            )
            if document is not None:
                response.catalogue.ParseFromString(document[1])
            return response

    def WatchSnapshots(  # noqa: N802 - the contract's name
        self, request: snapshot_pb2.WatchSnapshotsRequest, context: grpc.ServicerContext
    ) -> _Messages:
        """The feed from a cursor, with a heartbeat each second; ends when the process goes away."""
        if not self._room.acquire(blocking=False):
            abort(context, ExhaustedError(f"{MAX_WATCHERS} sidecars watch already", retry_after=5.0))
        metrics.watchers.inc()
        context.add_callback(self._signal.wake)
        try:
            yield from self._watch(request, context)
        finally:
            metrics.watchers.dec()
            self._room.release()

    def _watch(self, request: snapshot_pb2.WatchSnapshotsRequest, context: grpc.ServicerContext) -> _Messages:
        with answering(context):
            at = self._begin(request)
        yield snapshot_pb2.WatchSnapshotsResponse(epoch=at.epoch, sequence=at.sequence)
        sent = None
        while context.is_active() and not self._signal.closed:
            with answering(context):
                beat = self._beats.newest()
                if beat.place.epoch != at.epoch:
                    raise CursorTrimmedError("the feed was begun anew")
                messages, more = self._after(at, beat, beaten=beat is sent)
            for message in messages:
                yield message
                at = Place(at.epoch, message.sequence)
            if at.sequence >= beat.place.sequence:
                sent = beat
            if not more:
                self._signal.wait_past(at.sequence, BEAT_EVERY, context.is_active)

    def _begin(self, request: snapshot_pb2.WatchSnapshotsRequest) -> Place:
        newest = self._beats.newest().place
        if not request.HasField("after"):
            return newest
        after = Place(request.after.epoch, request.after.sequence)
        with self._database.reading() as session:
            oldest = oldest_kept(session)
            # Another replica may have numbered more than this one's shared heartbeat knows.
            furthest = place(session) or newest
        behind = after.sequence < newest.sequence and after.sequence + 1 < oldest
        # A database that was restored knows nothing of where it once was.
        ahead = after.sequence > furthest.sequence
        if after.epoch != newest.epoch or after.sequence < 0 or behind or ahead:
            raise CursorTrimmedError("changes after this cursor are not kept: begin anew")
        return after

    def _after(
        self, at: Place, beat: SealedBeat, *, beaten: bool
    ) -> tuple[list[snapshot_pb2.WatchSnapshotsResponse], bool]:
        """What comes next after a place, the heartbeat where it belongs, and whether there may be more."""
        with self._database.reading() as session:
            entries = entries_after(session, at.sequence)
        expected = at.sequence + 1
        if entries[0].sequence != expected if entries else at.sequence < beat.place.sequence:
            raise CursorTrimmedError("this watcher fell too far behind: begin anew")
        heartbeat = _message(at.epoch, beat.place.sequence, "heartbeat", beat.envelope)
        messages = [heartbeat] if at.sequence == beat.place.sequence and not beaten else []
        for entry in entries:
            messages.append(_message(at.epoch, entry.sequence, entry.kind, entry.envelope))
            if entry.sequence == beat.place.sequence:
                messages.append(heartbeat)
        return messages, len(entries) == PAGE


def _validate(held: Sequence[snapshot_pb2.HeldVersion]) -> None:
    """Nothing, or an error that names what is wrong."""
    if not 1 <= len(held) <= MAX_CONFIRMED:
        raise InvalidInputError.of("held", expected(f"1 to {MAX_CONFIRMED} versions", len(held)))
    if wrong := [*_wrong(held)]:
        raise InvalidInputError(wrong)


def _wrong(held: Sequence[snapshot_pb2.HeldVersion]) -> Iterator[Violation]:
    times = Counter(one.tenant_id for one in held)
    for index, one in enumerate(held):
        if not is_tenant(one.tenant_id):
            yield Violation(f"held[{index}].tenant_id", expected(TENANT_FORM, one.tenant_id))
        elif times[one.tenant_id] > 1:
            yield Violation(f"held[{index}].tenant_id", expected("each tenant once", one.tenant_id))
        if one.version < 1:
            yield Violation(f"held[{index}].version", expected("1 or more", one.version))


def _require_catalogue(session: Session) -> None:
    """An empty database is most likely the wrong one: it must not be said of it that nobody exists.

    Raises:
        SourceUnavailableError: There is no catalogue.
    """
    if feed_shards(session) is None:
        raise SourceUnavailableError(
            "no catalogue has been applied yet: who exists cannot be said. Is it the right database?", 5.0
        )


def _message(
    epoch: str, sequence: int, kind: str, envelope: bytes | None
) -> snapshot_pb2.WatchSnapshotsResponse:
    message = snapshot_pb2.WatchSnapshotsResponse(epoch=epoch, sequence=sequence)
    if envelope is not None:
        field = {CATALOGUE: message.catalogue, "heartbeat": message.heartbeat}.get(kind, message.snapshot)
        field.ParseFromString(envelope)
    return message
