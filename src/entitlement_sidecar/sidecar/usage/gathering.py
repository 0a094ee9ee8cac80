"""Events of one turn of the event loop go to the outbox together.

A front hands over what has arrived in batches. What is consumed by one batch is one append, of which there is
one wake-up of the outbox's thread and one of the loop; each call is answered after the commit, as ever.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Protocol

from entitlement_sidecar.domain.catalogue import Durability
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.sidecar.usage.outbox import Outbox, PreparedRecord

_log = logging.getLogger(__name__)


class Waiter(Protocol):
    """Waits for a record."""

    def told(self, error: BaseException | None) -> None:
        """It was committed, or was not for this reason."""
        ...


Keeping = tuple[Durability, bool]
"""How durable records are, and whether they may be billable: alike in those that are appended together."""

LARGEST = 64
"""Records appended together at most: bounds what one append holds up."""


class _Waiting:
    """Records that wait for the end of the turn, and who waits for each."""

    __slots__ = ("records", "waiters")

    def __init__(self) -> None:
        self.records: list[PreparedRecord] = []
        self.waiters: list[Waiter] = []


class Gathering:
    """Appends records that have no earlier answer and cannot conflict."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: dict[Keeping, _Waiting] = {}

    def keep(self, record: PreparedRecord, keeping: Keeping, waiter: Waiter) -> None:
        """Appends a record at the end of this turn; the waiter is told after the commit, on the loop."""
        waiting = self._waiting.get(keeping)
        if waiting is None:
            waiting = self._waiting[keeping] = _Waiting()
            asyncio.get_running_loop().call_soon(self._append, keeping, waiting)
        waiting.records.append(record)
        waiting.waiters.append(waiter)
        if len(waiting.records) >= LARGEST:
            self._append(keeping, waiting)

    def _append(self, keeping: Keeping, waiting: _Waiting) -> None:
        if self._waiting.get(keeping) is not waiting:
            return  # there were so many that they are on their way
        del self._waiting[keeping]
        durability, billable = keeping
        try:
            kept = self._outbox.append_prepared(waiting.records, durability, billable=billable)
        except Exception as error:  # noqa: BLE001 - goes to whoever asked
            _tell(waiting, error)
        else:
            kept.add_done_callback(partial(_ended, waiting))


def _ended(waiting: _Waiting, kept: asyncio.Future[list[UsageResult]]) -> None:
    _tell(waiting, asyncio.CancelledError() if kept.cancelled() else kept.exception())


def _tell(waiting: _Waiting, error: BaseException | None) -> None:
    for waiter in waiting.waiters:
        try:
            waiter.told(error)
        except Exception:  # noqa: BLE001 - the others are told all the same
            _log.exception("an answer could not be given")
