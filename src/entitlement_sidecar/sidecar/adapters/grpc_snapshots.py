"""Snapshots straight from the plan store, over gRPC: on a miss, and as a feed for sites without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import grpc
import grpc.aio

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import (
    EntitlementsError,
    RetryableError,
    SourceRefusedError,
    SourceUnavailableError,
    TenantUnknownError,
    UnsupportedError,
)
from entitlement_sidecar.sidecar.adapters.verification import counted_refusals
from entitlement_sidecar.sidecar.snapshots.last_known import LastKnown, NothingKept
from entitlement_sidecar.sidecar.snapshots.ports import (
    Beat,
    Began,
    CatalogueChanged,
    Changed,
    Confirmed,
    FeedEvent,
    Fetched,
    Position,
)
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import from_timestamp
from entitlement_sidecar.wire.envelopes import open_catalogue, open_heartbeat, open_snapshot
from entitlement_sidecar.wire.signing import BadSignatureError, KeyRing
from entitlement_sidecar.wire.status import from_rpc_error
from entitlement_sidecar.wire.v1 import snapshot_pb2, snapshot_pb2_grpc

TIMEOUT = 1.0
"""Seconds that one read may take before the plan store counts as away."""

CONFIRM_TIMEOUT = 5.0
"""Seconds that confirming many versions may take; nobody waits for it."""

SILENCE = 5.0
"""Seconds without a message after which the feed counts as lost: heartbeats come each second."""


class PlanStoreSnapshots:
    """The plan store's own word: on one tenant at a time, and on many versions at once."""

    def __init__(
        self, channel: grpc.aio.Channel, keyring: KeyRing, token: str, last_known: LastKnown | None = None
    ) -> None:
        """`last_known` is told of what belongs to no tenant: the catalogue document, and keys."""
        self._stub = snapshot_pb2_grpc.SnapshotServiceStub(channel)
        self._keyring = keyring
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._last_known = last_known or NothingKept()

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """The newest snapshot; see `SnapshotSource`."""
        request = snapshot_pb2.GetSnapshotRequest(tenant_id=tenant_id, min_version=min_version)
        try:
            response = await self._stub.GetSnapshot(request, timeout=TIMEOUT, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _why(tenant_id, from_rpc_error(error)) from error
        if not self._keyring.trusts(response.snapshot.key_id):
            await self.learn_keys()
        with counted_refusals("plan_store"):
            snapshot = open_snapshot(self._keyring, response.snapshot, tenant_id)
        envelope = response.snapshot.SerializeToString()
        return Fetched(snapshot, Source.PLAN_STORE, from_timestamp(response.true_at), envelope)

    async def confirm(self, versions: Mapping[str, int]) -> Confirmed:
        """What became of versions; see `Confirmer`."""
        held = [snapshot_pb2.HeldVersion(tenant_id=name, version=number) for name, number in versions.items()]
        request = snapshot_pb2.ConfirmSnapshotsRequest(held=held)
        try:
            response = await self._stub.ConfirmSnapshots(
                request, timeout=CONFIRM_TIMEOUT, metadata=self._metadata
            )
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise UnsupportedError("this plan store confirms one snapshot at a time") from error
            raise _away(from_rpc_error(error)) from error
        return Confirmed(
            from_timestamp(response.true_at),
            frozenset(response.outdated_tenant_ids),
            frozenset(response.unknown_tenant_ids),
        )

    async def catalogue(self) -> CatalogueDocument | None:
        """The newest catalogue document. A ring that is not pinned trusts the keys that come with it.

        The channel is authenticated by the token, so its word on keys is as good as its word on tenants.
        """
        try:
            response = await self._stub.GetCatalogue(
                snapshot_pb2.GetCatalogueRequest(), timeout=TIMEOUT, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise _away(from_rpc_error(error)) from error
        self._keyring.learn({key.key_id: key.public_key for key in response.keys})
        if not self._keyring.pinned:
            self._last_known.keep_keys(self._keyring.public_keys)
        if not response.HasField("catalogue"):
            return None
        return self.opened(response.catalogue)

    def opened(self, envelope: snapshot_pb2.SignedEnvelope) -> CatalogueDocument:
        """A catalogue document that the plan store sent, verified.

        Raises:
            BadSignatureError: It is not what a trusted key signed; counted.
        """
        with counted_refusals("plan_store"):
            document = open_catalogue(self._keyring, envelope)
        self._last_known.keep_catalogue(envelope.SerializeToString(), document.version)
        return document

    async def learn_keys(self) -> None:
        """Trusts the keys that the plan store signs with now, unless the ring is pinned."""
        if not self._keyring.pinned:
            with suppress(BadSignatureError):
                await self.catalogue()


def _why(tenant_id: str, failure: EntitlementsError) -> EntitlementsError:
    return TenantUnknownError(tenant_id) if isinstance(failure, TenantUnknownError) else _away(failure)


def _away(failure: EntitlementsError) -> SourceUnavailableError:
    """Whatever the plan store refuses a read with, to a decision it is away."""
    metrics.source_errors.labels("plan_store").inc()
    if isinstance(failure, SourceUnavailableError):
        return failure
    if isinstance(failure, RetryableError):
        return SourceUnavailableError(f"the plan store refused: {failure}", failure.retry_after)
    return SourceRefusedError(f"the plan store refused: {failure}")


class PlanStoreFeed:
    """WatchSnapshots as a feed of one shard. Resumes from its own cursor."""

    def __init__(
        self, channel: grpc.aio.Channel, keyring: KeyRing, token: str, last_known: LastKnown | None = None
    ) -> None:
        """`last_known`: see `PlanStoreSnapshots`."""
        self._stub = snapshot_pb2_grpc.SnapshotServiceStub(channel)
        self._keyring = keyring
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._source = PlanStoreSnapshots(channel, keyring, token, last_known)
        self._at: Position | None = None
        self._keys_wanted = not keyring

    async def events(self) -> AsyncIterator[FeedEvent]:
        """Changes and beats; see `Feed`."""
        if self._keys_wanted:
            await self._source.learn_keys()
            self._keys_wanted = False
        call = self._stub.WatchSnapshots(self._request(), metadata=self._metadata)
        try:
            while True:
                for event in self._apply(await self._next(call)):
                    yield event
        except grpc.RpcError as error:
            if _trimmed(error):
                self._at = None
            raise _away(from_rpc_error(error)) from error
        finally:
            call.cancel()

    def _request(self) -> snapshot_pb2.WatchSnapshotsRequest:
        if self._at is None:
            return snapshot_pb2.WatchSnapshotsRequest()
        cursor = snapshot_pb2.FeedCursor(epoch=self._at.epoch, sequence=self._at.sequence)
        return snapshot_pb2.WatchSnapshotsRequest(after=cursor)

    async def _next(self, call: grpc.aio.UnaryStreamCall) -> snapshot_pb2.WatchSnapshotsResponse:  # type: ignore[type-arg]
        try:
            async with asyncio.timeout(SILENCE):
                message = await call.read()
        except TimeoutError as error:
            raise SourceUnavailableError(f"the plan store was silent for {SILENCE:g} s") from error
        if not isinstance(message, snapshot_pb2.WatchSnapshotsResponse):
            raise SourceUnavailableError("the plan store ended the feed")
        return message

    def _apply(self, message: snapshot_pb2.WatchSnapshotsResponse) -> list[FeedEvent]:
        position = Position(0, message.epoch, message.sequence)
        entry = message.WhichOneof("entry")
        carries = entry in {"snapshot", "catalogue"}
        try:
            opened = [] if entry is None else [self._open(entry, message, position)]
        except BadSignatureError:
            # The signer may have another key by now.
            self._keys_wanted = True
            if carries:
                # Going on behind it would hide the change: begin anew, and revalidate what is held.
                self._at = None
            raise
        continues = self._continues(position, carries=carries)
        self._at = position
        return opened if continues else [Began(position, shards=1), *opened]

    def _continues(self, position: Position, *, carries: bool) -> bool:
        """Whether nothing can have been missed between the cursor and this message."""
        if self._at is None or self._at.epoch != position.epoch:
            return False
        return position.sequence == self._at.sequence + (1 if carries else 0)

    def _open(
        self, entry: str, message: snapshot_pb2.WatchSnapshotsResponse, position: Position
    ) -> FeedEvent:
        if entry == "catalogue":
            document = self._source.opened(message.catalogue)
            return CatalogueChanged(position, document.version, document)
        with counted_refusals("plan_store"):
            if entry == "snapshot":
                envelope = message.snapshot
                snapshot = open_snapshot(self._keyring, envelope, envelope.tenant_id)
                sealed = envelope.SerializeToString()
                return Changed(position, snapshot.tenant_id, snapshot.version, snapshot, sealed)
            beat = open_heartbeat(self._keyring, message.heartbeat)
        if (beat.epoch, beat.sequence) != (position.epoch, position.sequence):
            raise SourceUnavailableError("a heartbeat speaks of another place in the feed")
        return Beat(position, beat.true_at)


def _trimmed(error: grpc.RpcError) -> bool:
    return bool(error.code() is grpc.StatusCode.OUT_OF_RANGE)
