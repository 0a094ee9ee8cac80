"""The front of a site with a callers file: the address for all, and a socket for each caller that has one.

Whom the kernel lets open a caller's socket is that caller. (Which user stands behind a connection neither
front can tell: ADR 13.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.sidecar.rpc.callers import Callers
from entitlement_sidecar.sidecar.rpc.callers_file import SETTING, Caller
from entitlement_sidecar.sidecar.rpc.front import Front

OpenSocket = Callable[[Caller], Front]
"""Makes the front of a caller's socket."""


class CallerSockets:
    """A front made of fronts.

    Args:
        main: Serves the address for all.
        callers: Who has a socket.
        make: Makes the front of one caller's socket.
    """

    def __init__(self, main: Front, callers: Callers, make: OpenSocket) -> None:
        self._main = main
        self._callers = callers
        self._make = make
        self._open: dict[str, tuple[Caller, Front]] = {}
        self._leaving = False

    async def start(self) -> str:
        """See `Front`."""
        address = await self._main.start()
        try:
            await self._follow()
        except BaseException:
            await self.stop()
            raise
        return address

    async def load(self) -> None:
        """Reads the callers file again, closes the sockets that it no longer has, and opens those it has now.

        Raises:
            ConfigurationError: The file is wrong, and nothing has changed; or a socket cannot be opened, and
                all else has: who was taken out of the file must not stay because of a folder.
        """
        await self._callers.load()
        try:
            await self._follow()
        except ConfigurationError as error:
            raise ConfigurationError(f"{error} (all else in the file is in effect)") from error

    async def _follow(self) -> None:
        if self._leaving:
            return
        wanted = {one.socket: one for one in self._callers.sockets()}
        for path, (caller, front) in list(self._open.items()):
            if path not in wanted or not wanted[path].is_same(caller):
                del self._open[path]
                await front.stop()
        wrong = [text for caller in wanted.values() if (text := await self._opened(caller))]
        if wrong:
            raise ConfigurationError("\n".join(wrong))

    async def _opened(self, caller: Caller) -> str:
        """Opens a caller's socket unless it is open; what is wrong with it, or nothing."""
        if caller.socket in self._open:
            return ""
        front = self._make(caller)
        try:
            await front.start()
        except ConfigurationError as error:
            return f"{SETTING} {self._callers.path}: caller {caller.name!r}: {error}"
        self._open[caller.socket] = caller, front
        return ""

    def _all(self) -> list[Front]:
        return [self._main, *(front for _, front in self._open.values())]

    async def drain(self, grace: float) -> None:
        """See `Front`."""
        self._leaving = True
        await asyncio.gather(*(front.drain(grace) for front in self._all()))

    async def stop(self) -> None:
        """See `Front`."""
        self._leaving = True
        await asyncio.gather(*(front.stop() for front in self._all()))
        self._open.clear()
