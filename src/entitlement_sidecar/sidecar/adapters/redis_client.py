"""Clients for each kind of Redis, that never wait long and never try again by themselves.

What finds its way first (the map of a cluster, the primary that sentinels name) does so beside the call that
needs it: a call gives up in time, and the next one finds the way that the search has found meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError

from entitlement_sidecar.wire.redis_credentials import credentials
from entitlement_sidecar.wire.redis_target import RedisKind, RedisTarget

TIMEOUT = 0.25
"""Seconds that Redis may take to connect or to answer: beyond them the plan store is asked."""

AWAY = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What a call raises when Redis did not answer as it should."""

RedisClient = Redis | RedisCluster

_T = TypeVar("_T")


def connect(target: RedisTarget, timeout: float = TIMEOUT) -> RedisClient:
    """A client that waits `timeout` seconds to connect, and for each answer. Connects when first used."""
    options = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "credential_provider": credentials(target),
        **target.encryption(),
    }
    if target.kind is RedisKind.CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in target.nodes]
        return _Cluster(startup_nodes=nodes, retry=_never(), **options)
    options |= {"retry": _never(), "db": target.database}
    if target.kind is RedisKind.SENTINEL:
        return _named_by_sentinels(target, options)
    if target.path:
        return Redis(unix_socket_path=target.path, **options)
    [(host, port)] = target.nodes
    return Redis(host=host, port=port, **options)


def told(error: BaseException) -> str:
    """A failure in a line. What a server says of a command is left out: it may repeat what was sent."""
    if isinstance(error, RedisClusterException) and error.__cause__ is not None:
        # No node could be asked for the map: the last one's reason says more.
        error = error.__cause__
    if isinstance(error, NoConnectionError | NoPermissionError):
        # Which server it is, or which setting is wrong: user, password or ACL. None of it is secret.
        return f"Redis: {type(error).__name__}: {error}"
    return f"Redis: {type(error).__name__}"


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


def _named_by_sentinels(target: RedisTarget, options: dict[str, Any]) -> Redis:
    asking = {
        "socket_timeout": options["socket_timeout"],
        "socket_connect_timeout": options["socket_connect_timeout"],
        "retry": _never(),
        **target.encryption(),
    }
    sentinels = _Sentinels(target.nodes, sentinel_kwargs=asking)
    primary: _Primary = sentinels.master_for(target.primary, redis_class=_Primary, **options)
    primary.sentinels = sentinels
    return primary


class _Shared:
    """A search that whoever needs it waits for, and that nobody's impatience ends."""

    def __init__(self) -> None:
        self._running: asyncio.Future[Any] | None = None

    async def __call__(self, search: Awaitable[Any]) -> Any:  # noqa: ANN401 - what the search finds
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(search)
            self._running.add_done_callback(_retrieve)
        elif asyncio.iscoroutine(search):
            search.close()
        return await asyncio.shield(self._running)

    async def end(self) -> None:
        """Ends a search under way."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])


async def within(seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
    """What the work answers in time. What takes longer is cancelled, and not waited for.

    `asyncio.timeout` would wait: until Python 3.12, `asyncio.wait_for`, which the client sends with, may take
    a cancellation for itself, and the work goes on.

    Raises:
        TimeoutError: It took longer.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        task.cancel()
        task.add_done_callback(_retrieve)


def _retrieve(search: asyncio.Future[Any]) -> None:
    """Nobody may be left to hear of a failure."""
    if not search.cancelled():
        search.exception()


class _Cluster(RedisCluster):
    """A cluster whose map is read by one call at a time, to the end."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - the library's own
        super().__init__(**options)
        self._search = _Shared()

    async def initialize(self, *args: Any, **options: Any) -> RedisCluster:  # noqa: ANN401 - the library's own
        """Reads the map, unless it is known."""
        await self._search(super().initialize(*args, **options))
        return self

    async def aclose(self) -> None:
        """Closes the connections."""
        if asyncio.current_task() is not self._search._running:  # noqa: SLF001 - the other half of this class
            await self._search.end()
        await super().aclose()


class _Sentinels(Sentinel):
    """All of them are asked at once: one that does not answer costs nothing."""

    def __init__(self, nodes: tuple[tuple[str, int], ...], **options: Any) -> None:  # noqa: ANN401 - the library's
        super().__init__(nodes, **options)  # type: ignore[no-untyped-call]  # the library says no types
        self._search = _Shared()

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """The primary, by the word of whoever answers first.

        Raises:
            MasterNotFoundError: None of them knows.
        """
        found: tuple[str, int] = await self._search(self._first_word(service_name))
        return found

    async def _first_word(self, name: str) -> tuple[str, int]:
        asked = [asyncio.ensure_future(self._word(sentinel, name)) for sentinel in self.sentinels]
        try:
            for answered in asyncio.as_completed(asked):
                address = await answered
                if address is not None:
                    return address
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise MasterNotFoundError(f"no sentinel names a primary {name!r}")

    async def _word(self, sentinel: Redis, name: str) -> tuple[str, int] | None:
        try:
            known = cast("dict[str, dict[str, Any]]", await sentinel.sentinel_masters())
        except AWAY:
            return None
        state = known.get(name)
        if not state or not self.check_master_state(state, name):
            return None
        return state["ip"], state["port"]

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._search.end()
        await super().aclose()


class _Primary(Redis):
    """The server that sentinels name, and the connections to these."""

    sentinels: _Sentinels

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - the library's own
        """Closes the connections."""
        await super().aclose(close_connection_pool)
        await self.sentinels.aclose()
