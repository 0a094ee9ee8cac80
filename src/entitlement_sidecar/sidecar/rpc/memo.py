"""Answers of PEEKs by their request's bytes (DESIGN 11).

Most calls repeat. An answer is given again while everything it was made from is unchanged: the snapshot, the
catalogue, and the interval in which the resolution holds; for three seconds at most, so that its `as_of` is
never old enough to be STALE, and only while the feed beats. A STALE answer is given again while nothing at
all is heard, so that an outage makes no check dearer. A metered answer also rests on the very view of
usage that it tells, which is looked for each time (ADR 7). What consumes, or waits, is never kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from entitlement_sidecar.sidecar.decisions.basis import Basis
from entitlement_sidecar.telemetry import metrics

MAX_ENTRIES = 32_768
"""Answers kept at most; the oldest goes first."""

MAX_REQUEST = 512
"""Bytes of a request that is kept at most."""

_NUMBER = 8
"""Bytes of an asker's number, in front of its requests."""


class Memo(Protocol):
    """What keeps answers."""

    def get(self, payload: bytes) -> bytes | None:
        """The answer to a request, while what it rests on holds."""
        ...

    def put(self, payload: bytes, answer: bytes, basis: Basis | None) -> None:
        """Keeps an answer that rests on something that can be checked again."""
        ...


class AnswerMemo:
    """Serialised answers, and what each rests on."""

    def __init__(self) -> None:
        # Not a plain one, of which the first is the dearer to find the more were taken out.
        self._entries: OrderedDict[bytes, tuple[bytes, Basis]] = OrderedDict()
        self._askers = 0
        self._hits = metrics.memo_lookups.labels("hit")
        self._misses = metrics.memo_lookups.labels("miss")

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, payload: bytes) -> bytes | None:
        """The answer to a request, while what it rests on holds."""
        entry = self._entries.get(payload)
        if entry is None:
            return None
        if not entry[1].holds():
            del self._entries[payload]
            return None
        self._hits.inc()
        entry[1].count()
        return entry[0]

    def put(self, payload: bytes, answer: bytes, basis: Basis | None) -> None:
        """Keeps an answer that rests on something that can be checked again: it was not there."""
        self._misses.inc()
        if basis is None or len(payload) > MAX_REQUEST:
            return
        # The entry goes to the end, so that the first is the one that was made longest ago.
        self._entries.pop(payload, None)
        self._entries[payload] = (answer, basis)
        if len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)

    def apart(self) -> Memo:
        """Room in it for one asker alone: what others were answered is not found there."""
        self._askers += 1
        return _Apart(self, self._askers.to_bytes(_NUMBER))


class _Apart:
    def __init__(self, memo: AnswerMemo, number: bytes) -> None:
        self._memo = memo
        self._number = number

    def get(self, payload: bytes) -> bytes | None:
        """See `Memo`."""
        return self._memo.get(self._number + payload)

    def put(self, payload: bytes, answer: bytes, basis: Basis | None) -> None:
        """See `Memo`."""
        self._memo.put(self._number + payload, answer, basis)
