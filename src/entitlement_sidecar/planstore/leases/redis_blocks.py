"""Blocks as they lie in Redis, and the scripts that change them. Every call touches one tenant."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import cast

import msgspec
import redis

from entitlement_sidecar.domain.lease import DRIFT, OnHolderLoss
from entitlement_sidecar.planstore.snapshots.redis_client import Cluster
from entitlement_sidecar.planstore.snapshots.redis_script import Script
from entitlement_sidecar.wire.redis_keys import TENDING_KEY, WANTED_KEY, BlockPlace, micros

# Made before there are threads, as in `catalogue.plans`.
_wished = msgspec.json.Decoder(tuple[str, str]).decode

AT_ONCE = 500
"""Wishes that are taken at once."""


class Status(StrEnum):
    """Whether a script did what it was asked."""

    OK = "ok"
    MISSING = "missing"
    ANOTHER_RUN = "another_run"
    ANOTHER_BLOCK = "another_block"


class BlockState(msgspec.Struct, frozen=True):
    """A block as Redis holds it. `run` is the server's that answered, `run_id` the one that it belongs to.

    `id` is empty where there is none. Totals: `granted` and `returned` between the root and the block,
    `given`, `back` and `used` between the block and its holders; `overdrawn` is the part of `used` whose
    tokens had been taken back before.
    """

    run: str
    id: str = ""
    run_id: str = ""
    closing: bool = False
    granted: int = 0
    returned: int = 0
    given: int = 0
    back: int = 0
    used: int = 0
    holders: int = 0
    sequence: int = 0
    overdrawn: int = 0

    @property
    def free(self) -> int:
        """What it may still grant."""
        return self.granted - self.returned - self.given + self.back

    @property
    def outstanding(self) -> int:
        """What its holders may still use, or have used and not told."""
        return max(0, self.given - self.back - self.used)

    @property
    def ours(self) -> bool:
        """Whether the server that holds it is the one that it was delegated to."""
        return bool(self.id) and self.run_id == self.run


class Lost(msgspec.Struct, frozen=True):
    """Accounts of a block that were closed: how many, tokens that stay spent, tokens taken back.

    `holders` were lost before, and still have something.
    """

    status: Status
    accounts: int = 0
    forfeited: int = 0
    reclaimed: int = 0
    holders: tuple[str, ...] = ()


class RedisBlocks:
    """The scripts of blocks. All methods raise redis.RedisError when Redis is away."""

    def __init__(self, client: redis.Redis | Cluster) -> None:
        self._client = client
        self._open, self._grow, self._shrink, self._lose, self._account, self._read, self._remove = (
            Script(client, Path(__file__).with_name(f"block_{name}.lua"))
            for name in ("open", "grow", "shrink", "lose", "account", "read", "remove")
        )

    def read(self, place: BlockPlace) -> BlockState:
        """What is there."""
        run, _, id_, run_id, _, _, closing, *totals = _texts(self._read([place.key], []))
        if not id_:
            return BlockState(run)
        numbers = [int(one or "0") for one in totals]
        return BlockState(run, id_, run_id, closing == "1", *numbers)

    def open(
        self, place: BlockPlace, name: str, run: str, starts_at: datetime, replaces: str = ""
    ) -> str | None:
        """Lays an empty block, in place of one that is of no use any more; its id is said by the server.

        None: the server is another run, or another block lies there.
        """
        window = [micros(starts_at), micros(place.ends_at)]
        status, _, id_ = _texts(self._open([place.key], [name, run, *window, replaces]))
        return id_ if Status(status) is Status.OK else None

    def grow(self, place: BlockPlace, id_: str, granted: int, sequence: int) -> Status:
        """Lets it grant what the database has delegated in total, by the request of that number."""
        return Status(_texts(self._grow([place.key], [id_, granted, sequence]))[0])

    def shrink(self, place: BlockPlace, id_: str, keep: int, *, close: bool = False) -> tuple[Status, int]:
        """Has it give up what is free, but for `keep`; says how much it gave up now.

        Once it is to `close`, nothing is granted from it any more.
        """
        status, _, gave = _texts(self._shrink([place.key], [id_, keep, int(close)]))
        return Status(status), int(gave)

    def lose(self, place: BlockPlace, id_: str, on_loss: OnHolderLoss, drift: float = DRIFT) -> Lost:
        """Closes the accounts of holders whose time is over; reclaims `drift` seconds later."""
        reclaims = on_loss is OnHolderLoss.RECLAIM
        late = round(drift * 1_000_000) if reclaims else 0
        answer = _texts(self._lose([place.key], [id_, int(reclaims), late]))
        status, accounts, forfeited, reclaimed, *holders = answer
        return Lost(Status(status), int(accounts), int(forfeited), int(reclaimed), tuple(holders))

    def account_for(self, place: BlockPlace, id_: str, holder: str, used: int) -> int:
        """Takes back what a lost holder did not use by its events; says how much."""
        _, came = _texts(self._account([place.key], [id_, holder, used]))
        return int(came)

    def remove(self, place: BlockPlace, id_: str) -> tuple[int, int] | None:
        """Takes it away; says what was used and returned in all. None: it was not there any more."""
        status, used, returned = _texts(self._remove([place.key], [id_]))
        return (int(used), int(returned)) if Status(status) is Status.OK else None

    def takes_turn(self, seconds: float) -> bool:
        """Whether it is this process' turn to look after all blocks; nobody else's is for so long."""
        return bool(self._client.set(TENDING_KEY, b"", nx=True, px=round(seconds * 1000)))

    def wanted(self) -> set[tuple[str, str]]:
        """Takes what sidecars wish for: tenants and features. What is taken nobody else is told of."""
        found = cast("list[bytes]", self._client.spop(WANTED_KEY, AT_ONCE))
        return {wish for text in found for wish in _wish(text)}


def _wish(text: bytes) -> list[tuple[str, str]]:
    """What one entry names; nothing where it is damaged."""
    try:
        return [_wished(text)]
    except msgspec.DecodeError:
        return []


def _texts(answer: object) -> list[str]:
    return [one.decode() if isinstance(one, bytes) else str(one) for one in cast("list[object]", answer)]
