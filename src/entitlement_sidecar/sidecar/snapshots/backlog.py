"""What has to be read again, and when: at once at first, then ever later while it fails.

A few reads run at once, what nothing is known of is read at a bounded rate, and pauses are random, so that
what many sidecars have lost together does not become a stampede when it is back.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable

AT_ONCE = 8
"""Reads in parallel."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds at most before the second read of something, and before any later one."""

LATER_PER_SECOND, LATER_TOGETHER = 200, 50
"""Reads of what nothing is known of that begin in a second at most, and how many of them together."""

REST = 0.05
"""Seconds at most that a failed read keeps its place: with `AT_ONCE` it bounds how many fail in a second."""

_log = logging.getLogger(__name__)


class Backlog:
    """Calls `read` of each name until `settled` says that it need not be read again.

    It knows at most what was added and is not settled yet; what is settled by others is dropped when its time
    comes. While it is not `open` nothing is added, and nothing new begins.
    """

    def __init__(self, read: Callable[[str], Awaitable[object]], settled: Callable[[str], bool]) -> None:
        self._read = read
        self._settled = settled
        self._urgent: OrderedDict[str, None] = OrderedDict()
        self._due: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []
        self._failures: dict[str, int] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._later = float("-inf")
        self._open = False

    def __len__(self) -> int:
        return len(self._urgent.keys() | self._due.keys()) + len(self._running)

    def open(self) -> None:
        """Reads may begin."""
        self._open = True

    def close(self) -> None:
        """Nothing more begins, and what waits is forgotten. What runs goes on to its end."""
        self._open = False
        self._urgent.clear()
        self._due.clear()
        self._order.clear()
        self._failures.clear()
        self._later = float("-inf")
        self._pump()

    def cancel(self) -> None:
        """The process ends."""
        self.close()
        for task in self._running.values():
            task.cancel()

    def add(self, name: str) -> None:
        """Has something read as soon as there is room: a change is known of it, or somebody asks for it."""
        if self._open and name not in self._running:
            self._urgent[name] = None
            self._pump()

    def add_later(self, name: str) -> None:
        """Has something read after all that was added: nothing is known of it."""
        awaits_its_turn = name in self._due and name not in self._failures
        if self._open and name not in self._running and not awaits_its_turn:
            now = asyncio.get_running_loop().time()
            together = (LATER_TOGETHER - 1) / LATER_PER_SECOND
            self._later = max(self._later + 1 / LATER_PER_SECOND, now - together)
            self._put(name, max(now, self._later))
            self._pump()

    def _put(self, name: str, due: float) -> None:
        if due < self._due.get(name, float("inf")):
            self._due[name] = due
            heapq.heappush(self._order, (due, name))

    def _pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while len(self._running) < AT_ONCE:
            name = self._next()
            if name is None:
                return
            self._due.pop(name, None)
            if name not in self._running:
                self._begin(name)

    def _next(self) -> str | None:
        """What to read now; where nothing is, a timer is set for the first that will be."""
        if self._urgent:
            return self._urgent.popitem(last=False)[0]
        loop = asyncio.get_running_loop()
        while self._order:
            due, name = self._order[0]
            if self._due.get(name) == due and due > loop.time():
                self._timer = loop.call_at(due, self._pump)
                return None
            heapq.heappop(self._order)
            if self._due.get(name) == due:
                return name
        return None

    def _begin(self, name: str) -> None:
        if self._settled(name):
            self._failures.pop(name, None)
            return
        task = asyncio.get_running_loop().create_task(self._once(name))
        self._running[name] = task
        task.add_done_callback(lambda _: self._ended(name))

    async def _once(self, name: str) -> None:
        try:
            await self._read(name)
        except Exception:  # noqa: BLE001 - logged whole
            # A defect in reading one must not keep the others from being read.
            _log.exception("reading %r again failed unexpectedly", name)
        if not self._settled(name):
            # The place stays taken: where all fail at once, trying must not keep the processor busy.
            await asyncio.sleep(random.uniform(REST / 2, REST))  # noqa: S311 - spreads reads, hides nothing

    def _ended(self, name: str) -> None:
        del self._running[name]
        if not self._open:
            return
        if self._settled(name):
            self._failures.pop(name, None)
        else:
            self._put(name, asyncio.get_running_loop().time() + self._pause(name))
        self._pump()

    def _pause(self, name: str) -> float:
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311 - spreads reads, hides nothing
