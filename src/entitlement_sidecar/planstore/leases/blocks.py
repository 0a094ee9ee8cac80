"""Moves quota between the root and the blocks in Redis, one feature of one tenant at a time.

Safe with any number of plan stores at once, and at whatever instant one of them ends: growing counts in the
database first, giving up in Redis first, and each side tells the other totals. Where the two do not belong
together any more, the block is lost: what it had stays spent until its holders say otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session
from uuid6 import uuid7

from entitlement_sidecar.domain.lease import OnHolderLoss, Told
from entitlement_sidecar.planstore.db import Database, QuotaAccountRow, TenantSnapshotRow
from entitlement_sidecar.planstore.leases.redis_blocks import BlockState, Lost, RedisBlocks
from entitlement_sidecar.planstore.leases.sizes import goal, resized
from entitlement_sidecar.planstore.leases.standing import Standing, next_window, standing_of
from entitlement_sidecar.planstore.usage.account_rows import Opening, account_of, places_of
from entitlement_sidecar.planstore.usage.accounts import Accounts, Now
from entitlement_sidecar.planstore.usage.shipped import shipped_in_full, used_by_events
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.redis_keys import BlockPlace

HOLDER = "redis"
"""Holder of the accounts of blocks."""

LARGEST = 2**53 - 1
"""What a block may be granted in all: the scripts count to it exactly."""

_log = logging.getLogger(__name__)


class OpenBlock(msgspec.Struct, frozen=True):
    """A block that is not closed, and the version of its tenant's snapshot, which says what holds for it."""

    id: str
    place: BlockPlace
    snapshot_version: int | None


class Blocks:
    """Lays, grows, shrinks and closes blocks. All methods raise redis.RedisError when Redis is away."""

    def __init__(self, database: Database, redis: RedisBlocks, now: Now | None = None) -> None:
        self._database = database
        self._redis = redis
        self._now = now or database.now
        self._accounts = Accounts(self._now)

    def visit(self, tenant_id: str, feature: str, *, wanted: bool = False) -> None:
        """Sees to the blocks of a feature.

        The block of now is laid where it is `wanted`, or follows one that was in use; that of the next window
        before it begins, while this one's is in use.
        """
        now, rows = self._look(tenant_id, feature)
        used = [self._tend(row, now) for row in rows]
        in_use = any(used)
        standing = self._standing(tenant_id, feature, now)
        if standing is None:
            return
        if wanted or in_use:
            self._lay_unless_there(standing, now)
        soon = next_window(standing, now) if in_use else None
        later = None if soon is None else self._standing(tenant_id, feature, soon)
        if later is not None and soon is not None:
            self._lay_unless_there(later, soon)

    def recall(self, tenant_id: str, feature: str, quantity: int) -> int:
        """Has the blocks of now give up to `quantity` that is free back to the root; says how much came."""
        now, rows = self._look(tenant_id, feature)
        came = 0
        for row in rows:
            if row.starts_at <= now and came < quantity:
                came += self._recall(row, quantity - came)
        return came

    def free_in(self, row: QuotaAccountRow) -> int:
        """What lies free in a block; nothing where it is lost."""
        state = self._redis.read(_place_of(row))
        return 0 if _estranged(row, state) else min(state.free, account_of(row).outstanding)

    def open_blocks(self, after: str, count: int) -> list[OpenBlock]:
        """Blocks that are not closed, in the order of ids."""
        row, snapshot = QuotaAccountRow, TenantSnapshotRow
        query = (
            select(row.id, row.tenant_id, row.feature, row.ends_at, snapshot.version)
            .outerjoin(snapshot, snapshot.tenant_id == row.tenant_id)
            .where(row.run_id != "", row.closed.is_(False), row.id > after)
            .order_by(row.id)
            .limit(count)
        )
        with self._database.reading() as session:
            rows = session.execute(query).all()
        return [
            OpenBlock(one.id, BlockPlace(one.tenant_id, one.feature, one.ends_at), one.version)
            for one in rows
        ]

    def _look(self, tenant_id: str, feature: str) -> tuple[datetime, list[QuotaAccountRow]]:
        """The database's clock, and the blocks that are not closed."""
        with self._database.reading() as session:
            return self._now(session), open_of(session, tenant_id, feature)

    def _standing(self, tenant_id: str, feature: str, at: datetime) -> Standing | None:
        with self._database.reading() as session:
            return standing_of(session, tenant_id, feature, at)

    def _tend(self, row: QuotaAccountRow, now: datetime) -> bool:
        """Sees to one block; says whether anything was ever granted from it."""
        place = _place_of(row)
        state = self._redis.read(place)
        if why := _estranged(row, state) or self._ahead(row, state):
            self._forfeit(row, why)
            if state.id == row.id and state.ours:
                # Its numbers are not to be trusted, and it would go on granting.
                self._redis.remove(place, row.id)
            return True
        if state.sequence < row.sequence:
            # Whoever was granted this ended before Redis heard of it.
            self._redis.grow(place, row.id, row.granted, row.sequence)
        lost = self._redis.lose(place, row.id, OnHolderLoss(row.on_loss))
        self._note_lost(row, lost)
        if lost.holders:
            self._account_for(row, lost.holders)
        # Once it closes it does not open again: its holders give back what they have.
        standing = None if state.closing else self._standing_of(row, now)
        if standing is not None:
            self._resize(row, place, standing)
        if standing is None or self._is_beyond(row, now, standing):
            self._close(row, place)
        return state.given > 0

    def _is_beyond(self, row: QuotaAccountRow, now: datetime, before: Standing) -> bool:
        """Whether more is out than there is, also now that the block has given up what was free in it.

        The limit was lowered, then, or passed by usage that nobody admitted: its holders are to give back.
        """
        if before.rest >= 0:
            return False
        after = self._standing_of(row, now)
        return after is not None and after.rest < 0

    def _account_for(self, row: QuotaAccountRow, holders: Sequence[str]) -> None:
        """Settles for those of its lost holders whose events are all here."""
        with self._database.reading() as session:
            used = {
                holder: used_by_events(session, row, holder) for holder in shipped_in_full(session, holders)
            }
        for holder, quantity in used.items():
            came = self._redis.account_for(_place_of(row), row.id, holder, quantity)
            metrics.lease_tokens_lost.labels("accounted").inc(came)

    def _note_lost(self, row: QuotaAccountRow, lost: Lost) -> None:
        metrics.lease_tokens_lost.labels("forfeited").inc(lost.forfeited)
        metrics.lease_tokens_lost.labels("reclaimed").inc(lost.reclaimed)
        if lost.forfeited:
            _log.warning(
                "block %s of %s: %d holders are lost with %d tokens of %r, which stay spent",
                row.id, row.tenant_id, lost.accounts, lost.forfeited, row.feature,
            )  # fmt: skip

    def _ahead(self, row: QuotaAccountRow, state: BlockState) -> str:
        """Why Redis can grant more than was ever delegated; '' where it cannot.

        The database was restored, then; unless another plan store has let the block grow since it was read.
        """
        if state.granted <= row.granted:
            return ""
        with self._database.reading() as session:
            known = self._accounts.read(session, row.id)
        return "" if known is not None and known.granted >= state.granted else "ahead"

    def _standing_of(self, row: QuotaAccountRow, now: datetime) -> Standing | None:
        """What the limits of a block have; None where its windows are over, or others are in force."""
        if row.ends_at is not None and now >= row.ends_at:
            return None
        standing = self._standing(row.tenant_id, row.feature, max(now, row.starts_at))
        return standing if standing is not None and standing.is_of(places_of(row)) else None

    def _resize(self, row: QuotaAccountRow, place: BlockPlace, standing: Standing) -> None:
        state = self._redis.read(place)
        by = resized(standing.rest, state.free, standing.whole, wary=standing.strict)
        if by < 0:
            self._redis.shrink(place, row.id, state.free + by)
            state = self._redis.read(place)
        self._take_over(row, state)
        if by > 0 and state.id == row.id:
            self._grow(row, min(by, LARGEST - row.granted), standing)

    def _grow(self, row: QuotaAccountRow, by: int, standing: Standing) -> None:
        told = Told(row.sequence + 1, row.used, row.returned)
        with self._database.writing() as session:
            account = self._accounts.grant(session, row.id, told, by, standing.allowance).account
        self._redis.grow(_place_of(row), row.id, account.granted, account.sequence)

    def _take_over(self, row: QuotaAccountRow, state: BlockState) -> None:
        """Has the root hear what a block says of itself."""
        if _estranged(row, state) or (state.used <= row.used and state.returned <= row.returned):
            return
        with self._database.writing() as session:
            self._accounts.settle(session, row.id, Told(row.sequence, state.used, state.returned))

    def _recall(self, row: QuotaAccountRow, quantity: int) -> int:
        place = _place_of(row)
        state = self._redis.read(place)
        if _estranged(row, state) or not state.free:
            return 0
        _, gave = self._redis.shrink(place, row.id, max(0, state.free - quantity))
        self._take_over(row, self._redis.read(place))
        return gave

    def _close(self, row: QuotaAccountRow, place: BlockPlace) -> None:
        """Grants no more, and takes back what is free; ends once no holder can use anything any more."""
        self._redis.shrink(place, row.id, 0, close=True)
        state = self._redis.read(place)
        self._take_over(row, state)
        if state.outstanding and state.holders:
            return
        totals = self._redis.remove(place, row.id)
        with self._database.writing() as session:
            if totals is not None:
                self._accounts.settle(session, row.id, Told(row.sequence, *totals))
            self._accounts.lose(session, row.id, OnHolderLoss.FORFEIT, known=True)

    def _forfeit(self, row: QuotaAccountRow, why: str) -> None:
        """What it had is spent, until holders say what they had of it."""
        with self._database.writing() as session:
            known = self._accounts.read(session, row.id)
            if known is None or known.closed:
                # Another plan store has closed it since.
                return
            lost = self._accounts.lose(session, row.id, OnHolderLoss.FORFEIT, known=True).account
        metrics.blocks_lost.labels(why).inc()
        _log.warning(
            "block %s of %s, %s is lost (%s): %d stay spent until its holders settle",
            row.id,
            row.tenant_id,
            row.feature,
            why,
            lost.outstanding,
        )

    def _lay_unless_there(self, standing: Standing, at: datetime) -> None:
        _, rows = self._look(standing.allowance.tenant_id, standing.allowance.feature)
        if any(_place_of(row) == standing.place for row in rows):
            return
        wants = min(goal(standing.rest, standing.whole, wary=standing.strict), LARGEST)
        if wants > 0:
            self._lay(standing, at, wants)

    def _lay(self, standing: Standing, at: datetime, wants: int) -> None:
        """A new block. It lies in Redis, empty, before the database grants it anything.

        So a block that has anything, and is not there, was there: nobody ever lays it again.
        """
        state = self._redis.read(standing.place)
        id_ = self._laid(standing, state)
        if id_ is None:
            return
        opening = Opening(id=id_, holder=HOLDER, at=at, run_id=state.run)
        with self._database.writing() as session:
            opened = self._accounts.open(session, standing.allowance, opening, wants)
        if opened is not None:
            self._redis.grow(standing.place, id_, opened.account.granted, opened.account.sequence)

    def _laid(self, standing: Standing, state: BlockState) -> str | None:
        """The id of an empty block that lies in Redis now; None where another plan store's does."""
        if state.id:
            with self._database.reading() as session:
                row = self._accounts.read(session, state.id)
            if row is not None and not row.closed:
                return None
            if row is None and state.ours and not state.granted:
                return state.id
        return self._redis.open(standing.place, uuid7().hex, state.run, standing.starts_at, state.id)


def open_of(session: Session, tenant_id: str, feature: str) -> list[QuotaAccountRow]:
    """The blocks of a feature that are not closed, also those for later."""
    row = QuotaAccountRow
    mine = (row.tenant_id == tenant_id, row.feature == feature)
    query = select(row).where(*mine, row.run_id != "", row.closed.is_(False)).order_by(row.id)
    return list(session.scalars(query))


def _place_of(row: QuotaAccountRow) -> BlockPlace:
    return BlockPlace(row.tenant_id, row.feature, row.ends_at)


def _estranged(row: QuotaAccountRow, state: BlockState) -> str:
    """Why what Redis holds is not the block that the database knows; '' where it is.

    `row` was read first. The database then knows nothing of the block that it did not tell, or hear from it,
    but for the last growth: that may not have arrived.
    """
    if state.run != row.run_id:
        return "another_run"
    if not state.id:
        return "missing"
    if state.id != row.id or not state.ours:
        return "another_block"
    behind = state.sequence < row.sequence - 1 or state.used < row.used or state.returned < row.returned
    return "rolled_back" if behind else ""
