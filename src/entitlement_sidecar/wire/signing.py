"""Ed25519 signatures (RFC 8032): write access to Redis cannot forge a feature (DESIGN 6).

A signature covers a context string, the kind, tenant, version and time besides the payload, each with its
length, so that no envelope can stand for another.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from datetime import datetime
from enum import IntEnum
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError

from entitlement_sidecar.domain.errors import ConfigurationError, SourceRefusedError
from entitlement_sidecar.wire.codec import microseconds
from entitlement_sidecar.wire.v1 import snapshot_pb2

_CONTEXT = b"entitlement.v1"
_KEY_BYTES = 32


class PayloadKind(IntEnum):
    """What a signed payload is. Values are those of the contract."""

    SNAPSHOT = 1
    CATALOGUE = 2
    HEARTBEAT = 3


class BadSignatureError(SourceRefusedError):
    """What a source answered is not what a trusted key signed. `cause` is stable, for metrics."""

    reason = "BAD_SIGNATURE"

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        super().__init__(message)


class SigningKey:
    """A private key of the plan store."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_bytes = private.public_key().public_bytes_raw()
        self.key_id = hashlib.sha256(self.public_bytes).hexdigest()[:16]

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Reads a key that `save` wrote.

        Raises:
            ConfigurationError: The file cannot be read or holds no key.
        """
        try:
            raw = base64.b64decode(path.read_text().strip(), validate=True)
            return cls(Ed25519PrivateKey.from_private_bytes(raw))
        except OSError as error:
            raise ConfigurationError(f"signing key {path}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigurationError(
                f"signing key {path}: expected one line of base64 with 32 bytes (Ed25519)"
            ) from error

    def save(self, path: Path) -> None:
        """Writes the key, readable by its owner only; fails when the file exists."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(path, flags, 0o600), "w") as file:
            file.write(base64.b64encode(self._private.private_bytes_raw()).decode() + "\n")

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(message)

    def trust_line(self) -> str:
        """The line that `KeyRing.load` reads."""
        return trust_line(self.key_id, self.public_bytes)


def sign(  # noqa: PLR0913, PLR0917 - the parts that the signature covers
    key: SigningKey, kind: PayloadKind, tenant_id: str, version: int, compiled_at: datetime, payload: bytes
) -> bytes:
    """A serialised SignedEnvelope."""
    envelope = snapshot_pb2.SignedEnvelope(
        kind=int(kind),
        tenant_id=tenant_id,
        version=version,
        compiled_at_us=microseconds(compiled_at),
        payload=payload,
        key_id=key.key_id,
    )
    envelope.signature = key.sign(_covered(envelope))
    return envelope.SerializeToString()


def trust_line(key_id: str, public_bytes: bytes) -> str:
    """A public key as `KeyRing.load` reads it."""
    return f"{key_id} {base64.b64encode(public_bytes).decode()}\n"


def signature_mark(key_id: str) -> bytes:
    """Bytes that an envelope holds exactly when it names this key: how databases find what it signed.

    It is the field as the wire has it, with tag and length; no name of a tenant can hold the latter.
    """
    return snapshot_pb2.SignedEnvelope(key_id=key_id).SerializeToString()


def signer_of(envelope: bytes) -> str:
    """Id of the key that an envelope says it was signed with; nothing is verified."""
    return snapshot_pb2.SignedEnvelope.FromString(envelope).key_id


def _covered(envelope: snapshot_pb2.SignedEnvelope) -> bytes:
    parts = (
        _CONTEXT,
        str(envelope.kind).encode(),
        envelope.tenant_id.encode(),
        str(envelope.version).encode(),
        str(envelope.compiled_at_us).encode(),
        envelope.payload,
    )
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


class KeyRing:
    """Public keys that are trusted, by id. `pinned` rings take no further keys."""

    def __init__(self, keys: dict[str, bytes] | None = None, *, pinned: bool = False) -> None:
        self.pinned = pinned
        self._keys = {key_id: Ed25519PublicKey.from_public_bytes(raw) for key_id, raw in (keys or {}).items()}

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """A pinned ring from a file with one `KEY_ID BASE64` per line; `#` begins a comment.

        Raises:
            ConfigurationError: The file cannot be read or a line is malformed.
        """
        try:
            lines = path.read_text("utf-8", errors="replace").splitlines()
        except OSError as error:
            raise ConfigurationError(f"trusted keys {path}: {error.strerror}") from error
        keys = {}
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                key_id, raw = _trusted(path, number, line)
                keys[key_id] = raw
        if not keys:
            raise ConfigurationError(f"trusted keys {path}: holds no key; expected lines of `KEY_ID BASE64`")
        return cls(keys, pinned=True)

    def __len__(self) -> int:
        return len(self._keys)

    def learn(self, keys: Mapping[str, bytes]) -> None:
        """Trusts these keys and no others any more; a pinned ring stays as it is, and none is told no key."""
        if keys and not self.pinned:
            self._keys = {key_id: Ed25519PublicKey.from_public_bytes(raw) for key_id, raw in keys.items()}

    @property
    def public_keys(self) -> dict[str, bytes]:
        """The raw public keys by id."""
        return {key_id: key.public_bytes_raw() for key_id, key in self._keys.items()}

    def trusts(self, key_id: str) -> bool:
        """Whether a key of this id is trusted."""
        return key_id in self._keys

    def open(
        self, envelope: bytes | snapshot_pb2.SignedEnvelope, kind: PayloadKind, tenant_id: str = ""
    ) -> snapshot_pb2.SignedEnvelope:
        """The envelope, verified.

        Raises:
            BadSignatureError: Garbage, another kind or tenant, an unknown key, or a wrong signature.
        """
        parsed = _parse(envelope)
        if parsed.kind != int(kind) or parsed.tenant_id != tenant_id:
            raise BadSignatureError("misplaced", f"expected {kind.name} of {tenant_id!r}, found another's")
        self.verify(parsed.key_id, parsed.signature, _covered(parsed))
        return parsed

    def verify(self, key_id: str, signature: bytes, message: bytes) -> None:
        """Does nothing where a trusted key has signed the message.

        Raises:
            BadSignatureError: An unknown key, or a wrong signature.
        """
        key = self._keys.get(key_id)
        if key is None:
            raise BadSignatureError("unknown_key", f"signed by key {key_id!r}, which is not trusted")
        try:
            key.verify(signature, message)
        except InvalidSignature as error:
            raise BadSignatureError("signature", "the signature does not fit") from error


def _parse(envelope: bytes | snapshot_pb2.SignedEnvelope) -> snapshot_pb2.SignedEnvelope:
    if isinstance(envelope, snapshot_pb2.SignedEnvelope):
        return envelope
    try:
        return snapshot_pb2.SignedEnvelope.FromString(envelope)
    except DecodeError as error:
        raise BadSignatureError("garbage", "not a signed envelope") from error


def _trusted(path: Path, number: int, line: str) -> tuple[str, bytes]:
    key_id, _, text = line.strip().partition(" ")
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raw = b""
    if not key_id or len(raw) != _KEY_BYTES:
        raise ConfigurationError(f"trusted keys {path}:{number}: expected `KEY_ID BASE64` with 32 bytes")
    return key_id, raw
