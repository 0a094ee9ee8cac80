"""Sealing and opening what travels: a domain value in, signed bytes out, and back."""

from __future__ import annotations

from datetime import datetime

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.wire.codec import from_timestamp, to_timestamp
from entitlement_sidecar.wire.signing import BadSignatureError, KeyRing, PayloadKind, SigningKey, sign
from entitlement_sidecar.wire.snapshot_codec import (
    document_from_proto,
    document_to_proto,
    snapshot_from_proto,
    snapshot_to_proto,
)
from entitlement_sidecar.wire.v1 import snapshot_pb2

Envelope = bytes | snapshot_pb2.SignedEnvelope


class HeartbeatValue(msgspec.Struct, frozen=True):
    """Everything committed before `true_at` is published in `shard`, up to (epoch, sequence)."""

    epoch: str
    shard: int
    sequence: int
    true_at: datetime


def seal_snapshot(key: SigningKey, snapshot: Snapshot) -> bytes:
    """A signed snapshot."""
    payload = snapshot_to_proto(snapshot).SerializeToString()
    return sign(
        key, PayloadKind.SNAPSHOT, snapshot.tenant_id, snapshot.version, snapshot.compiled_at, payload
    )


def open_snapshot(keyring: KeyRing, envelope: Envelope, tenant_id: str) -> Snapshot:
    """A verified snapshot.

    Raises:
        BadSignatureError: It is not what a trusted key signed for this tenant.
    """
    opened = keyring.open(envelope, PayloadKind.SNAPSHOT, tenant_id)
    try:
        snapshot = snapshot_from_proto(snapshot_pb2.Snapshot.FromString(opened.payload))
    except ValueError as error:
        raise BadSignatureError("newer_format", f"snapshot of a newer format: {error}") from error
    if (snapshot.tenant_id, snapshot.version) != (tenant_id, opened.version):
        raise BadSignatureError("misplaced", "the payload is not what its envelope says")
    return snapshot


def seal_catalogue(key: SigningKey, document: CatalogueDocument, compiled_at: datetime) -> bytes:
    """A signed catalogue document."""
    payload = document_to_proto(document).SerializeToString()
    return sign(key, PayloadKind.CATALOGUE, "", document.version, compiled_at, payload)


def open_catalogue(keyring: KeyRing, envelope: Envelope) -> CatalogueDocument:
    """A verified catalogue document.

    Raises:
        BadSignatureError: It is not what a trusted key signed.
    """
    opened = keyring.open(envelope, PayloadKind.CATALOGUE)
    try:
        return document_from_proto(snapshot_pb2.CatalogueDocument.FromString(opened.payload))
    except ValueError as error:
        raise BadSignatureError("newer_format", f"catalogue of a newer format: {error}") from error


def seal_heartbeat(key: SigningKey, beat: HeartbeatValue) -> bytes:
    """A signed heartbeat."""
    payload = snapshot_pb2.Heartbeat(
        epoch=beat.epoch, shard=beat.shard, sequence=beat.sequence, true_at=to_timestamp(beat.true_at)
    ).SerializeToString()
    return sign(key, PayloadKind.HEARTBEAT, "", beat.sequence, beat.true_at, payload)


def open_heartbeat(keyring: KeyRing, envelope: Envelope) -> HeartbeatValue:
    """A verified heartbeat.

    Raises:
        BadSignatureError: It is not what a trusted key signed.
    """
    opened = keyring.open(envelope, PayloadKind.HEARTBEAT)
    beat = snapshot_pb2.Heartbeat.FromString(opened.payload)
    return HeartbeatValue(beat.epoch, beat.shard, beat.sequence, from_timestamp(beat.true_at))
