"""The audit chain: what an entry's hash covers, and what following the chain finds (S1.11).

    walk = ChainWalk()
    for entry in entries:              # the oldest first
        findings.extend(walk.follow(entry))

Each entry holds the hash of the one before, so that a change of one shows there or in the next. Where the
chain ends, and whether it was made anew as a whole, the chain itself cannot tell: signed anchors can.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

GENESIS = bytes(32)
"""What the first entry follows."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One change of state: who, as what, when, why, of what, from what to what.

    `sequence` is contiguous from 1. `before` and `after` are JSON as text, exactly as they were hashed.
    `previous` is the hash of the entry before, `hash` this one's.
    """

    sequence: int
    at: datetime
    actor: str
    role: str
    action: str
    resource: str
    tenant_id: str
    reason: str
    request_id: str
    before: str
    after: str
    previous: bytes
    hash: bytes = b""


class FindingKind(StrEnum):
    """What is wrong with an entry, with the chain's end, or with an anchor."""

    CONTENT = "content"
    UNREADABLE = "unreadable"
    LINK = "link"
    MISSING = "missing"
    HEAD = "head"
    ANCHOR = "anchor"
    SIGNATURE = "signature"


class Finding(msgspec.Struct, frozen=True, gc=False):
    """Something that does not fit: which entry, who wrote it, and what is wrong. `day` names an anchor."""

    kind: FindingKind
    sequence: int
    problem: str
    day: str = ""
    at: datetime | None = None
    actor: str = ""
    action: str = ""
    resource: str = ""


def digest(entry: Entry) -> bytes:
    """The SHA-256 of everything that an entry says, the hash of the one before included."""
    said = [
        entry.sequence,
        entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        entry.actor,
        entry.role,
        entry.action,
        entry.resource,
        entry.tenant_id,
        entry.reason,
        entry.request_id,
        entry.before,
        entry.after,
        entry.previous.hex(),
    ]
    return hashlib.sha256(msgspec.json.encode(said)).digest()


def about(entry: Entry, kind: FindingKind, problem: str, day: str = "") -> Finding:
    """A finding that names an entry."""
    return Finding(
        kind=kind,
        sequence=entry.sequence,
        problem=problem,
        day=day,
        at=entry.at,
        actor=entry.actor,
        action=entry.action,
        resource=entry.resource,
    )


def missing(first: int, last: int) -> Finding:
    """Entries that are not there, both ends included."""
    which = f"entry {first} is" if first == last else f"entries {first} to {last} are"
    return Finding(FindingKind.MISSING, first, f"{which} missing")


class ChainWalk:
    """Follows a chain, the oldest entry first, in constant memory.

    Args:
        after: The entry before the first that comes; 0 where it begins with the first of all.
        end: The hash of that one; None: whatever the first entry says is believed.
        gaps: Entries may be left out, as in an export of one tenant.
    """

    def __init__(self, after: int = 0, end: bytes | None = GENESIS, *, gaps: bool = False) -> None:
        self.sequence = after
        self.hash = end
        self._fitting = None if end is None else {end}
        self._gaps = gaps

    def follow(self, entry: Entry) -> Iterator[Finding]:
        """What is wrong with the next entry, and with what lies between it and the one before."""
        computed = _computed(entry)
        if computed != entry.hash:
            yield about(entry, FindingKind.CONTENT, "what it says does not fit its hash: it was changed")
        if entry.sequence <= self.sequence:
            yield about(entry, FindingKind.LINK, f"comes after entry {self.sequence}, and is not later")
            return
        yield from self._linked(entry)
        self.sequence, self.hash = entry.sequence, entry.hash
        # Where only the hash was changed, the next one still follows what is said here.
        self._fitting = {entry.hash, computed}

    def skip(self, sequence: int) -> None:
        """An entry that cannot be read stands here."""
        self.sequence, self.hash, self._fitting = sequence, None, None

    def _linked(self, entry: Entry) -> Iterator[Finding]:
        if entry.sequence > self.sequence + 1:
            if not self._gaps and self._begun:
                yield missing(self.sequence + 1, entry.sequence - 1)
        elif self._fitting is not None and entry.previous not in self._fitting:
            yield about(entry, FindingKind.LINK, self._broken())

    @property
    def _begun(self) -> bool:
        return self.sequence > 0 or self.hash is not None

    def _broken(self) -> str:
        if self.sequence == 0:
            return "says that something came before it, and it is the first: the chain does not begin here"
        return f"follows another entry {self.sequence} than is there: that one was changed, or this one"


def _computed(entry: Entry) -> bytes:
    try:
        return digest(entry)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return b""  # a database without types may hold anything
