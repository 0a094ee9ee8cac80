"""Ways to grantors that lose, delay and repeat what is said, as they are told to."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.lease import Told
from entitlement_sidecar.sidecar.leases.grantor import Grantor, Heard, Opening, Request, Root
from entitlement_sidecar.testing.clock import FakeClock

_T = TypeVar("_T")


class State(Enum):
    """What becomes of a message."""

    WHOLE = "answered"
    CUT = "nobody hears it"
    DEAF = "it is heard, and the answer is lost"
    LATE = "it is given up, and heard some time later"
    TWICE = "it is heard twice, and answered"


class Way:
    """One sidecar's way to one grantor."""

    def __init__(self, to: Grantor, late: list[Callable[[], Coroutine[Any, Any, Any]]]) -> None:
        self.state = State.WHOLE
        self.source = to.source
        self._to = to
        self._late = late

    async def ask(self, opening: Opening, lease_id: str, request: Request) -> Heard:
        """As the grantor, or not."""
        return await self._send(lambda: self._to.ask(opening, lease_id, request))

    async def end(self, opening: Opening, lease_id: str, used: int) -> bool:
        """As the grantor, or not."""
        return await self._send(lambda: self._to.end(opening, lease_id, used))

    async def _send(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        if self.state is State.LATE:
            self._late.append(call)
        if self.state in {State.LATE, State.CUT}:
            raise SourceUnavailableError(self.state.value)
        if self.state is State.TWICE:
            await call()
        answer = await call()
        if self.state is State.DEAF:
            raise SourceUnavailableError(self.state.value)
        return answer


class RootWay(Way):
    """One sidecar's way to the root."""

    def __init__(self, to: Root, late: list[Callable[[], Coroutine[Any, Any, Any]]]) -> None:
        super().__init__(to, late)
        self._root = to

    async def adopt(self, lease_id: str, told: Told) -> bool:
        """As the root, or not."""
        return await self._send(lambda: self._root.adopt(lease_id, told))


class SkewedClock:
    """A sidecar's clocks: the wall clock is `skew` seconds off, the monotonic one began elsewhere."""

    def __init__(self, clock: FakeClock, skew: float) -> None:
        self._clock = clock
        self._skew = timedelta(seconds=skew)
        self._began = 1000.0 + skew

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return self._clock.now() + self._skew

    def monotonic(self) -> float:
        """Seconds of the monotonic clock."""
        return self._clock.monotonic() + self._began
