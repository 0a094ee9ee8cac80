"""Changing the signing key, step by step, on the state folder of a plan store.

    prepare   next.key is made, its public half is trusted     ──▶ give trusted.keys to every sidecar
    switch    signing.key is the new one, the old one is kept  ──▶ start the plan stores again
    retire    trusted.keys holds the new one alone             ──▶ give trusted.keys to every sidecar;
              retired.keys keeps the other public halves, for anchors of the audit log

No step undoes one before it, and each may be repeated: what is done already is told and left.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.wire.signing import KeyRing, SigningKey, trust_line


class KeyFiles(msgspec.Struct, frozen=True):
    """Where the key that signs is, and the public keys that sidecars should trust."""

    signing: Path
    trusted: Path

    @property
    def next(self) -> Path:
        """The key that will sign: in the state folder, also where the one that signs is elsewhere."""
        return self.trusted.with_name("next.key")

    @property
    def former(self) -> Path:
        """Public keys that were trusted: the audit log's anchors of their time are verified with them."""
        return self.trusted.with_name("retired.keys")

    def retired(self, key_id: str) -> Path:
        """Where a key goes that signs no more."""
        return self.trusted.with_name(f"retired-{key_id}.key")


def trust(path: Path, key: SigningKey) -> None:
    """Adds a key to the public ones, and keeps those that are there.

    Raises:
        ConfigurationError: The file holds something else, or cannot be written.
    """
    held = _held(path)
    if key.key_id not in held:
        _write(path, {**held, key.key_id: key.public_bytes})


def prepare(files: KeyFiles) -> SigningKey:
    """Makes the next key and trusts it.

    Raises:
        ConfigurationError: There is no key that signs now, or files cannot be read or written.
    """
    current = SigningKey.load(files.signing)
    if not files.next.exists():
        _saved(SigningKey.generate(), files.next)
    following = SigningKey.load(files.next)
    trust(files.trusted, current)
    trust(files.trusted, following)
    return following


def switch(files: KeyFiles) -> SigningKey:
    """Makes the next key the one that signs. The old one is kept beside it, so that the step can be undone.

    Raises:
        ConfigurationError: Nothing was prepared, or files cannot be read or written.
    """
    if not files.next.exists():
        raise ConfigurationError(f"{files.next}: missing; run the step `prepare` first")
    current, following = SigningKey.load(files.signing), SigningKey.load(files.next)
    trust(files.trusted, current)
    trust(files.trusted, following)
    kept = files.retired(current.key_id)
    try:
        if not kept.exists():
            # A second name first: at no instant is either key gone.
            os.link(files.signing, kept)
        files.next.replace(files.signing)
    except OSError as error:
        raise ConfigurationError(
            f"--signing-key {files.signing}: {error.strerror}; where it comes from elsewhere, put what "
            f"{files.next} holds there"
        ) from error
    return following


def retire(files: KeyFiles) -> list[str]:
    """Trusts the key that signs alone; ids of those that are trusted no more.

    Their private files go too; their public halves are kept apart. The caller makes sure that they signed
    nothing that is still in use.

    Raises:
        ConfigurationError: A rotation is under way, or files cannot be read or written.
    """
    if files.next.exists():
        raise ConfigurationError(f"{files.next}: a next key was prepared; run the step `switch` first")
    current = SigningKey.load(files.signing)
    trusted = _held(files.trusted)
    gone = sorted(key_id for key_id in trusted if key_id != current.key_id)
    if gone:
        _write(files.former, {**_held(files.former), **{key_id: trusted[key_id] for key_id in gone}})
    _write(files.trusted, {current.key_id: current.public_bytes})
    for key_id in gone:
        files.retired(key_id).unlink(missing_ok=True)
    return gone


def _held(path: Path) -> dict[str, bytes]:
    if not path.exists() or not path.read_text("utf-8", errors="replace").strip():
        return {}
    return KeyRing.load(path).public_keys


def _saved(key: SigningKey, path: Path) -> None:
    try:
        key.save(path)
    except FileExistsError:
        pass  # another one was quicker; its key is as good
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def _write(path: Path, keys: dict[str, bytes]) -> None:
    """All of it or nothing: a sidecar may read it at any instant."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text("".join(trust_line(key_id, raw) for key_id, raw in keys.items()))
        fresh.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
