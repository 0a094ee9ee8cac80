"""How many batches are settled at once, and when senders are asked to slow down (DESIGN 8)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from entitlement_sidecar.domain.errors import ExhaustedError

MAX_AT_ONCE = 8
"""Batches settled at once: half of the threads that answer calls, so that quota is granted meanwhile."""

RETRY_AFTER = 1.0
"""Seconds after which who was refused may come back; sidecars add a random pause."""

SLOW = 1.0
"""Seconds for a batch, on average, from which on senders are asked to wait between batches."""

LONGEST_WAIT = 10.0
"""Seconds that a sender is asked to wait at most."""

_WEIGHT = 0.2
"""Of the newest batch in the average."""


class IngestLoad:
    """Lets so many batches in, and knows how long they take. Thread-safe."""

    def __init__(self, at_once: int = MAX_AT_ONCE, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._room = threading.Semaphore(at_once)
        self._lock = threading.Lock()
        self._monotonic = monotonic
        self._average = 0.0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Room for one batch; how long it took is remembered.

        Raises:
            ExhaustedError: There is none. Nothing was done, so that the same batch may come again.
        """
        if not self._room.acquire(blocking=False):
            raise ExhaustedError("too many batches of usage are being stored already", RETRY_AFTER)
        began = self._monotonic()
        try:
            yield
        finally:
            self._room.release()
            self._remember(self._monotonic() - began)

    def _remember(self, took: float) -> None:
        with self._lock:
            self._average += _WEIGHT * (took - self._average)

    @property
    def slow_down(self) -> float:
        """Seconds that a sender should wait before its next batch; 0 while batches are stored quickly."""
        with self._lock:
            return min(self._average, LONGEST_WAIT) if self._average >= SLOW else 0.0
