"""Leases from blocks in Redis. A grant that was not heard of is asked for again, by the same number."""

from __future__ import annotations

import asyncio
import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import msgspec
from redis.exceptions import NoScriptError

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.lease import TTL, Terms, Told
from entitlement_sidecar.sidecar.adapters.redis_client import AWAY, RedisClient, within
from entitlement_sidecar.sidecar.adapters.redis_client import told as told_of
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.redis_keys import WANTED_KEY, BlockPlace

PATIENCE = 0.3
"""Seconds that one call may take in all: waiting for its turn, finding the server, connecting, its answer."""

AT_ONCE = 16
"""Calls at once, which is also how many connections they need; more wait for their turn."""

LARGEST = 2**53 - 1
"""What a script can count to exactly."""

LOW = 4
"""A block of which less than one part in so many is free is wished to grow."""


class BlockStatus(StrEnum):
    """Why a block granted nothing; OK: it granted what it could."""

    OK = "ok"
    MISSING = "missing"
    ANOTHER_RUN = "another_run"
    ANOTHER_BLOCK = "another_block"
    NOT_BEGUN = "not_begun"
    ENDED = "ended"
    CLOSING = "closing"


SETTLES_AT_ROOT = frozenset({BlockStatus.MISSING, BlockStatus.ANOTHER_RUN, BlockStatus.ANOTHER_BLOCK})
"""Where the block that granted is gone: its holders say at the root what they used and give up."""


class BlockAnswer(msgspec.Struct, frozen=True):
    """What a block says. `terms` say nothing new unless the status is one of a block that is there.

    `block` is its id, `free` what it may still grant, `size` all that it has and did not give back to the
    root.
    """

    status: BlockStatus
    block: str
    terms: Terms
    free: int
    size: int

    @property
    def low(self) -> bool:
        """Whether it runs low."""
        return self.free * LOW < self.size or not self.free


class RedisLeases:
    """Grants from blocks, and settlements with them. All methods may wait for `PATIENCE`.

    They raise SourceUnavailableError when Redis is away: then it is not known whether it heard. All of them
    may be repeated.
    """

    def __init__(self, redis: RedisClient, *, patience: float = PATIENCE) -> None:
        self._redis = redis
        self._patience = patience
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._grant = _Script(redis, "lease_grant.lua")
        self._settle = _Script(redis, "lease_settle.lua")

    async def grant(  # noqa: PLR0913 - a request of a lease has these parts
        self,
        place: BlockPlace,
        block: str,
        holder: str,
        told: Told,
        wants: int,
        *,
        least: int = 1,
        ttl: float = TTL,
    ) -> BlockAnswer:
        """Takes over what a holder says, and grants up to `wants` more.

        Less than a fair share of what is free is granted only where less is wanted; at least `least`, where
        it is free. `block` is the id of the one that the holder has an account with; '' when it has none.
        """
        wants, least = min(wants, LARGEST), min(least, LARGEST)
        numbers = (told.sequence, told.used, told.returned, wants, least, round(ttl * 1_000_000))
        return await self._call(self._grant, place, (block, holder, *numbers))

    async def settle(self, place: BlockPlace, block: str, holder: str, told: Told) -> BlockAnswer:
        """Takes over what a holder says, and grants nothing."""
        return await self._call(self._settle, place, (block, holder, told.used, told.returned, 0))

    async def end(self, place: BlockPlace, block: str, holder: str, used: int) -> BlockAnswer:
        """Closes the account of a holder that has finished: all that it did not use comes back.

        Also what it was granted and never heard of.
        """
        return await self._call(self._settle, place, (block, holder, used, 0, 1))

    async def wish(self, tenant_id: str, feature: str) -> None:
        """Tells the plan store that a block is missing, or runs low."""
        entry = msgspec.json.encode((tenant_id, feature))
        await self._in_time(cast("Any", self._redis.sadd(WANTED_KEY, entry)))

    async def _call(self, script: _Script, place: BlockPlace, args: tuple[str | int, ...]) -> BlockAnswer:
        answer = cast("list[bytes]", await self._in_time(script(place.key, args)))
        status, block, granted, sequence, closed, free, size = (one.decode() for one in answer)
        terms = Terms(int(granted), int(sequence), closed == "1")
        return BlockAnswer(BlockStatus(status), block, terms, int(free), int(size))

    async def _in_time(self, call: Any) -> object:  # noqa: ANN401 - what the client returns
        try:
            return await within(self._patience, self._in_turn(call))
        except AWAY as error:
            metrics.source_errors.labels("redis").inc()
            raise SourceUnavailableError(told_of(error)) from error

    async def _in_turn(self, call: Any) -> object:  # noqa: ANN401 - what the client returns
        async with self._turns:
            return await call


class _Script:
    """A script, sent in full only to a server that does not know it yet."""

    def __init__(self, redis: RedisClient, name: str) -> None:
        self._redis = redis
        self._text = Path(__file__).with_name(name).read_text()
        # Redis names scripts so.
        self._digest = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, key: str, args: tuple[str | int, ...]) -> object:
        given = [str(one) for one in args]
        try:
            return await cast("Any", self._redis.evalsha(self._digest, 1, key, *given))
        except NoScriptError:
            return await cast("Any", self._redis.eval(self._text, 1, key, *given))
