"""A circuit breaker around a source: what is away is asked seldom, and nobody waits for it in vain.

                  TROUBLE failures in a row
        closed ────────────────────────────────▶ open ◀────────────────┐
          ▲                                        │ after the pause    │ it fails: a longer pause
          │                                        ▼                    │
          └────────── the probe is answered ── half-open ───────────────┘
                                               (one call probes, the others fail at once)

Only a source that is away or slow fails. That a tenant is unknown, or that what lies there of one tenant
fails verification, is an answer: the source works, and the next tenant may be asked for.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import EntitlementsError, SourceRefusedError, SourceUnavailableError
from entitlement_sidecar.sidecar.snapshots.ports import Confirmed, Confirmer, Fetched, SnapshotSource
from entitlement_sidecar.telemetry import metrics

TROUBLE = 5
"""Failures in a row that open the circuit."""

FIRST_PAUSE = 1.0
"""Seconds that a circuit stays open at first; doubled each time that its probe fails."""

LONGEST_PAUSE = 10.0
"""Seconds that it stays open at most."""

JITTER = 0.25
"""Part of a pause by which it is longer or shorter: sidecars must not come back in step."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Circuit:
    """Counts failures of one source, and says whether to ask it."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._closed_at: float | None = None
        self._probing = False
        self._gauge = metrics.circuit_open.labels(name)
        self._gauge.set(0)

    @property
    def is_open(self) -> bool:
        """Whether the source is asked by probes alone."""
        return self._closed_at is not None

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Lasts for one call to the source.

        Raises:
            SourceUnavailableError: The circuit is open, and it is not yet time to probe or another one does.
        """
        probes = self._admit()
        try:
            yield
        except EntitlementsError as error:
            if _is_away(error):
                self._failed(probes=probes)
            else:
                self._answered()
            raise
        else:
            self._answered()
        finally:
            # Also when it was cancelled: the next call probes instead.
            if probes:
                self._probing = False

    def _admit(self) -> bool:
        """Whether this call is the probe."""
        if self._closed_at is None:
            return False
        left = self._closed_at - self._clock.monotonic()
        if left > 0 or self._probing:
            raise SourceUnavailableError(f"{self.name}: not asked, after failures in a row", max(left, 0.0))
        self._probing = True
        return True

    def _answered(self) -> None:
        if self.is_open:
            _log.info("%s: answers again", self.name)
        self._failures, self._pause, self._closed_at = 0, FIRST_PAUSE, None
        self._gauge.set(0)

    def _failed(self, *, probes: bool) -> None:
        self._failures += 1
        if probes:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._open()
        elif not self.is_open and self._failures >= TROUBLE:
            _log.warning("%s: %d failures in a row, asked by probes from now on", self.name, self._failures)
            metrics.circuit_opened.labels(self.name).inc()
            self._open()

    def _open(self) -> None:
        pause = min(self._pause * random.uniform(1 - JITTER, 1 + JITTER), LONGEST_PAUSE)  # noqa: S311 - no secret
        self._closed_at = self._clock.monotonic() + pause
        self._gauge.set(1)


def _is_away(error: EntitlementsError) -> bool:
    return isinstance(error, SourceUnavailableError) and not isinstance(error, SourceRefusedError)


class Breaking:
    """A source behind a circuit breaker."""

    def __init__(self, source: SnapshotSource, name: str, clock: Clock) -> None:
        self.circuit = Circuit(name, clock)
        self._source = source

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """What the source has, unless the circuit is open; see `SnapshotSource`."""
        return await self._ask(lambda: self._source.snapshot(tenant_id, min_version))

    async def catalogue(self) -> CatalogueDocument | None:
        """What the source has, unless the circuit is open; see `SnapshotSource`."""
        return await self._ask(self._source.catalogue)

    async def _ask(self, call: Callable[[], Awaitable[_T]]) -> _T:
        with self.circuit.asking():
            return await call()


class Knower(SnapshotSource, Confirmer, Protocol):
    """A source that also knows what is newest: the plan store."""


class BreakingKnower(Breaking):
    """One that knows, behind a circuit breaker: one circuit for all that it is asked."""

    def __init__(self, source: Knower, name: str, clock: Clock) -> None:
        super().__init__(source, name, clock)
        self._knower = source

    async def confirm(self, versions: Mapping[str, int]) -> Confirmed:
        """What it knows, unless the circuit is open; see `Confirmer`."""
        return await self._ask(lambda: self._knower.confirm(versions))
