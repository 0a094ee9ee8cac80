"""Leases from the block of a feature in Redis, as a grantor."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.sidecar.adapters.redis_leases import (
    SETTLES_AT_ROOT,
    BlockAnswer,
    BlockStatus,
    RedisLeases,
)
from entitlement_sidecar.sidecar.leases.grantor import Heard, Opening, Request
from entitlement_sidecar.wire.redis_keys import BlockPlace

_OVER = frozenset({BlockStatus.ENDED, BlockStatus.CLOSING})


class BlockGrantor:
    """Asks the block, and wishes for one where there is none or it runs low.

    A lease is named `<block>/<holder>#<name>`: each has an account of its own, since a closed one is granted
    nothing any more.
    """

    source = "block"

    def __init__(self, leases: RedisLeases) -> None:
        self._leases = leases

    async def ask(self, opening: Opening, lease_id: str, request: Request) -> Heard:
        """Grants as much as is fair, or needed.

        Raises:
            SourceUnavailableError: Redis is away.
        """
        answer = await self._leases.grant(
            _place(opening),
            lease_id.partition("/")[0],
            _holder(opening),
            request.told,
            request.wants,
            least=max(1, request.needs),
        )
        if answer.status in SETTLES_AT_ROOT or answer.low:
            await self._wish(opening)
        return _heard(opening, lease_id, answer)

    async def end(self, opening: Opening, lease_id: str, used: int) -> bool:
        """Closes the lease's account; False: its block is gone.

        Raises:
            SourceUnavailableError: Redis is away.
        """
        block, _, holder = lease_id.partition("/")
        answer = await self._leases.end(_place(opening), block, holder, used)
        return answer.status not in SETTLES_AT_ROOT

    async def _wish(self, opening: Opening) -> None:
        # The next request says so again.
        with suppress(SourceUnavailableError):
            await self._leases.wish(opening.tenant_id, opening.feature)


def _heard(opening: Opening, lease_id: str, answer: BlockAnswer) -> Heard:
    if answer.status in SETTLES_AT_ROOT:
        return Heard(gone=True)
    if not lease_id and not answer.terms.sequence:
        # No account was opened.
        return Heard()
    terms = answer.terms
    if answer.status in _OVER:
        terms = msgspec.structs.replace(terms, closed=True)
    return Heard(f"{answer.block}/{_holder(opening)}", terms, opening.ends_at)


def _place(opening: Opening) -> BlockPlace:
    return BlockPlace(opening.tenant_id, opening.feature, opening.ends_at)


def _holder(opening: Opening) -> str:
    return f"{opening.holder}#{opening.name}"
