"""Moving subscribers from one plan version to another, one transaction per tenant.

A dry run does the very same, looks at what the tenant has then, and takes everything back: what it says is
what would be. Who has been moved is not on the old version any more, so going on is beginning again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import COUNTED
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import (
    ConflictError,
    ExhaustedError,
    InvalidInputError,
    NotFoundError,
    StaleVersionError,
)
from entitlement_sidecar.domain.losing import Having, Lost, lost
from entitlement_sidecar.domain.quota import LimitUsage
from entitlement_sidecar.domain.resolve import resolve
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.catalogue import current_document, find_plan
from entitlement_sidecar.planstore.db import Database, PlanRow, SubscriptionRow
from entitlement_sidecar.planstore.snapshots import newest_snapshot
from entitlement_sidecar.planstore.snapshots.bulk import BATCH, Pace
from entitlement_sidecar.planstore.subscriptions import SubscriptionRequest, hold_organization, status_of
from entitlement_sidecar.planstore.usage.authority import Admission, RootAuthority


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be moved where; `tenants` empty is everybody. `dry_run` moves nobody."""

    source: PlanRow
    target: PlanRow
    tenants: frozenset[str] = frozenset()
    at_period_end: bool = False
    dry_run: bool = False


class Skipped(msgspec.Struct, frozen=True):
    """A tenant that stays where it is. `reason` is a status, `scheduled`, `changed` or `refused`."""

    tenant_id: str
    reason: str
    detail: str


class Denied(msgspec.Struct, frozen=True):
    """Something that a tenant has, and has used where it is counted, and would be denied.

    `used` is how much was used in the window that runs; None where it is not counted.
    """

    feature: str
    lost: Lost
    used: int | None = None


class Loser(msgspec.Struct, frozen=True):
    """A tenant that would be denied something."""

    tenant_id: str
    denied: tuple[Denied, ...]


class Moved(msgspec.Struct, frozen=True):
    """What became of one page of tenants. `last` is the tenant to go on after; None: that was all."""

    moved: int
    skipped: tuple[Skipped, ...]
    losers: tuple[Loser, ...]
    last: str | None


def move_of(session: Session, source: str, target: str) -> Move:
    """A move by the names of its ends: `code@version`, and for the target also `code`.

    Raises:
        NotFoundError: There is no such plan version.
        InvalidInputError: Both are the same, or the source names no version.
        ConflictError: They are of different products.
    """
    if "@" not in source:
        raise InvalidInputError.of("from", f"expected CODE@VERSION such as {source}@1")
    old, new = find_plan(session, source), find_plan(session, target)
    if old.id == new.id:
        raise InvalidInputError.of("to", f"expected another version than {label_of(old)}")
    if old.product != new.product:
        ends = f"{label_of(old)} is of product {old.product!r}, {label_of(new)} of {new.product!r}"
        raise ConflictError(f"{ends}: subscribers move within one product")
    return Move(source=old, target=new)


def label_of(plan: PlanRow) -> str:
    """A plan version by name."""
    return f"{plan.code}@{plan.version}"


def subscribers(session: Session, move: Move) -> int:
    """How many tenants are on the version that they are to leave."""
    row = SubscriptionRow
    query = select(func.count()).select_from(row).where(row.plan_id == move.source.id, row.open)
    return session.scalar(query.where(row.tenant_id.in_(move.tenants)) if move.tenants else query) or 0


def move_page(dependencies: ApiDependencies, move: Move, after: str, limit: int, pace: Pace) -> Moved:
    """Moves the next tenants, in the order of their ids, while the publisher keeps up with it.

    Raises:
        ExhaustedError: Nobody was moved, because it does not.
    """
    with dependencies.database.reading() as session:
        page = _page(session, move, after, limit)
    moved, losers = 0, []
    skipped: list[Skipped] = []
    for number, row in enumerate(page):
        if number % BATCH == 0 and not move.dry_run and not pace.wait():
            return _so_far(moved, skipped, page[:number])
        outcome = _move(dependencies, move, row)
        if isinstance(outcome, Skipped):
            skipped.append(outcome)
            continue
        moved += 1
        if outcome:
            losers.append(Loser(row.tenant_id, outcome))
        if number % BATCH == BATCH - 1 and not move.dry_run:
            dependencies.changed()
    last = page[-1].tenant_id if len(page) == limit else None
    return Moved(moved, tuple(skipped), tuple(losers), last)


def _so_far(moved: int, skipped: list[Skipped], done: Sequence[SubscriptionRow]) -> Moved:
    if not done:
        raise ExhaustedError("earlier changes are not published yet: move them a little later", 5.0)
    return Moved(moved, tuple(skipped), (), done[-1].tenant_id)


def _page(session: Session, move: Move, after: str, limit: int) -> Sequence[SubscriptionRow]:
    row = SubscriptionRow
    query = select(row).where(row.plan_id == move.source.id, row.open, row.tenant_id > after)
    if move.tenants:
        query = query.where(row.tenant_id.in_(move.tenants))
    return session.scalars(query.order_by(row.tenant_id).limit(limit)).all()


class _TakenBackError(Exception):
    """A dry run ends its transaction, with what it has found."""

    def __init__(self, found: Skipped | tuple[Denied, ...]) -> None:
        super().__init__()
        self.found = found


def _move(dependencies: ApiDependencies, move: Move, row: SubscriptionRow) -> Skipped | tuple[Denied, ...]:
    status = status_of(row, dependencies.clock.now())
    if status == "ended":
        return Skipped(row.tenant_id, status, "the subscription has ended")
    try:
        with dependencies.database.writing() as session:
            found = _moved(session, dependencies, move, row)
            if move.dry_run:
                raise _TakenBackError(found)
            return found
    except _TakenBackError as taken_back:
        return taken_back.found
    except StaleVersionError:
        return _changed(row)
    except (ConflictError, InvalidInputError, NotFoundError) as error:
        live = status in {"active", "trialing"}
        return Skipped(row.tenant_id, "refused" if live else status, str(error))


def _moved(
    session: Session, dependencies: ApiDependencies, move: Move, row: SubscriptionRow
) -> Skipped | tuple[Denied, ...]:
    before = newest_snapshot(session, row.tenant_id)
    current = _current(session, dependencies, row)
    stays = _stays(move, current)
    if current is None or stays is not None:
        return stays or _changed(row)
    change = dependencies.subscriptions.upsert(session, row.tenant_id, _request(move, current))
    if not change.changed:
        return Skipped(row.tenant_id, "scheduled", f"{label_of(move.target)} is its next plan already")
    if not move.dry_run:
        return ()
    at = change.row.next_plan_at if move.at_period_end else None
    return tuple(_denied(session, dependencies, (before, row.tenant_id), at))


def _current(session: Session, dependencies: ApiDependencies, row: SubscriptionRow) -> SubscriptionRow | None:
    """The subscription held, and as time has made it; None where it is not what was read."""
    hold_organization(session, row.tenant_id, dependencies.clock.now())
    found = session.get(SubscriptionRow, row.id)
    if found is None or found.version != row.version:
        return None
    dependencies.subscriptions.settle(session, row.tenant_id)
    session.flush()
    return found


def _stays(move: Move, current: SubscriptionRow | None) -> Skipped | None:
    """Why a subscription is none to be moved: what its customer or time has chosen is not overruled."""
    if current is None:
        return None
    if not current.open:
        return Skipped(current.tenant_id, "ended", "the subscription has ended")
    if current.plan.id != move.source.id:
        return Skipped(current.tenant_id, "changed", f"it is on {label_of(current.plan)} by now")
    if current.next_plan is not None and current.next_plan.id != move.target.id:
        said = f"{label_of(current.next_plan)} is its next plan: resume it first, which takes that back"
        return Skipped(current.tenant_id, "scheduled", said)
    return None


def _changed(row: SubscriptionRow) -> Skipped:
    return Skipped(row.tenant_id, "changed", "the subscription changed meanwhile: move it again")


def _request(move: Move, row: SubscriptionRow) -> SubscriptionRequest:
    return SubscriptionRequest(
        plan=label_of(move.target), at_period_end=move.at_period_end, expected_version=row.version
    )


class _At:
    """A clock that stands at the instant which is asked about."""

    def __init__(self, clock: Clock, at: datetime) -> None:
        self._at, self.monotonic = at, clock.monotonic

    def now(self) -> datetime:
        return self._at


class _Tenant(msgspec.Struct, frozen=True):
    """Who is looked at, where it is counted, and at which instant."""

    session: Session
    tenant_id: str
    database: Database
    clock: Clock

    def usage(self, having: Having) -> tuple[LimitUsage, ...]:
        """Hard limits and credits with what is used of them."""
        if having.feature is None or having.resolution is None or having.feature.kind not in COUNTED:
            return ()
        asked = Admission.of(self.tenant_id, having.feature, having.resolution, 0, "")
        found = RootAuthority(self.database, self.clock).admit(self.session, asked).limits
        return tuple(limit for limit in found if not limit.soft)


def _denied(
    session: Session,
    dependencies: ApiDependencies,
    before: tuple[Snapshot | None, str],
    at: datetime | None,
) -> Iterator[Denied]:
    """What a tenant has now, and would be denied once its move has come into force."""
    old, tenant_id = before
    new = newest_snapshot(session, tenant_id)
    if old is None or new is None:
        return
    now = dependencies.clock.now()
    then = at or now
    tenant = _Tenant(session, tenant_id, dependencies.database, _At(dependencies.clock, then))
    for feature in current_document(session).features.values():
        having = Having(feature, resolve(old, feature, now))
        left = Having(feature, resolve(new, feature, then))
        yield from _of_feature(tenant, feature.key, having, left)


def _of_feature(tenant: _Tenant, feature: str, before: Having, after: Having) -> Iterator[Denied]:
    for one in lost(before, after):
        if one.what not in {"limit", "credits"}:
            yield Denied(feature, one)
        elif (used := _used_up(one, tenant.usage(after))) is not None:
            yield Denied(feature, one, used)


def _used_up(one: Lost, usage: Sequence[LimitUsage]) -> int | None:
    """How much is used of a limit of which nothing would be left, or of credits; None where some is."""
    found = [limit for limit in usage if not one.limit or limit.key == one.limit]
    if not found or any(limit.remaining is None or limit.remaining > 0 for limit in found):
        return None
    return sum(limit.used + limit.outstanding for limit in found)
