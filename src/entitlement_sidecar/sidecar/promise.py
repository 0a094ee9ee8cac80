"""An answer that is on its way: cheaper than a future, because nobody but its maker's turn has to come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator

Heard = Callable[[bytes | None, BaseException | None], None]
"""Hears an answer, or why there is none."""


class Promise:
    """An answer that comes once, on the event loop. It is awaited, or heard by one alone.

    Who hears it is called in the maker's own turn; an awaiting task gets its turn later, as of any future.
    """

    __slots__ = ("_heard", "_outcome")

    def __init__(self) -> None:
        self._heard: Heard | None = None
        self._outcome: tuple[bytes | None, BaseException | None] | None = None

    def keep(self, answer: bytes | None, error: BaseException | None = None) -> None:
        """The answer is there, or the reason why there is none."""
        if self._heard is not None:
            self._heard(answer, error)
        else:
            self._outcome = answer, error

    def hear(self, heard: Heard) -> None:
        """Calls back with the answer; at once where it is there already."""
        if self._outcome is not None:
            heard(*self._outcome)
        else:
            self._heard = heard

    def __await__(self) -> Generator[asyncio.Future[bytes], None, bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def heard(answer: bytes | None, error: BaseException | None) -> None:
            if future.done():
                return  # who awaited has left
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(answer or b"")

        self.hear(heard)
        return (yield from future)
