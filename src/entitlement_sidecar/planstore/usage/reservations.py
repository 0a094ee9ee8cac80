"""Reservations at the root: an amount is held of every limit, then settled or given back (DESIGN 7).

    hold       delegated += n, of every limit of the feature, where n fits in all of them; of credits in burn
               order
    settle     delegated -= n; admitted += what was used of it. What was used beyond it is admitted as far as
               the limits have it left, and unadmitted for the rest
    release    delegated -= n; so does time, once the reservation is over
    settle, when nothing is held any more
               unadmitted += what was used: nobody had admitted it, and it has happened

It is counted in the windows in which it was reserved. A reservation is locked before its counters, and these
in the order of their keys. Everything happens in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.errors import IllegalTransitionError
from entitlement_sidecar.domain.quota import QuotaUsage, bucket_usage, burn
from entitlement_sidecar.domain.reservation import State
from entitlement_sidecar.planstore.db import QuotaCounterRow, QuotaReservationRow
from entitlement_sidecar.planstore.usage.allowances import Allowance, Part, in_order
from entitlement_sidecar.planstore.usage.counters import Counters, Place, usage_of
from entitlement_sidecar.planstore.usage.reservation_rows import (
    ANSWERED,
    LATE,
    Share,
    shares_of,
    write_shares,
)

_MOST = 2**61
"""Where a counter stays: sums of a row's three counters have to fit into 64 bits."""

_Rows = Mapping[Place, QuotaCounterRow]


def hold(session: Session, row: QuotaReservationRow, allowance: Allowance, now: datetime) -> QuotaUsage:
    """Holds the row's quantity of every limit in force, or nothing; usage after it."""
    if allowance.buckets:
        return _hold_credits(session, row, allowance, now)
    parts = in_order([Part.of_limit(limit, now) for limit in allowance.limits])
    rows = [allowance.counters.lock(session, part.place, part.end, part.limit) for part in parts]
    fits = all(_free(part, one) >= row.quantity for part, one in zip(parts, rows, strict=True))
    if fits:
        for one in rows:
            one.delegated += row.quantity
        _held(row, [Share(*part.place, part.end, row.quantity) for part in parts])
        session.flush()
    pairs = zip(parts, rows, strict=True)
    limits = tuple(usage_of(part.limit, part.window, one) for part, one in pairs if part.limit is not None)
    return QuotaUsage(limits, admitted=fits, as_of=now)


def watch(row: QuotaReservationRow, allowance: Allowance, now: datetime) -> None:
    """Holds nothing: what will be used counts to the limits in force, and nobody asks whether it fits."""
    parts = [Part.of_limit(limit, now) for limit in allowance.limits]
    _held(row, [Share(*part.place, part.end) for part in parts])


def release(session: Session, row: QuotaReservationRow, state: State, now: datetime) -> int:
    """Gives back what a locked row holds; what came back, the same when it is given back already.

    Raises:
        IllegalTransitionError: It was settled.
    """
    if row.state == State.SETTLED:
        raise IllegalTransitionError(
            f"reservation {row.reservation_id!r} was settled with {row.value}: "
            f"correct its event {row.event_id!r} instead"
        )
    if row.state == State.OPEN:
        rows = _counters(session, row, shares_of(row))
        _give_back(row, rows)
        row.state, row.ended_at = state.value, now
        row.returned = _held_of(row)
        session.flush()
    return row.returned


def settle(
    session: Session, row: QuotaReservationRow, used: int, allowance: Allowance, now: datetime
) -> None:
    """Counts what was used of a locked row, and gives the rest back.

    `allowance` is what is in force now: of limits in the windows of the reservation, of credits what has not
    expired.
    """
    was_open = row.state == State.OPEN
    known = shares_of(row)
    added = [Share(*part.place, part.end) for part in map(Part.of_bucket, allowance.buckets)]
    places = {share.place for share in known}
    shares = [*known, *(share for share in added if row.credits and share.place not in places)]
    rows = _counters(session, row, shares)
    if was_open:
        _give_back(row, rows)
    settled = (_settled_credits if row.credits else _settled_limits)(row, rows, shares, used, allowance)
    for share in settled:
        counter = rows[share.place]
        counter.admitted += share.admitted
        counter.unadmitted = min(counter.unadmitted + share.unadmitted, _MOST)
    _note(row, [share for share in settled if share.held or share.admitted or share.unadmitted], used, now)
    row.overage = _overage(row, settled, allowance)
    session.flush()


def shortfall(session: Session, row: QuotaReservationRow, used: int, allowance: Allowance) -> int:
    """What would not be admitted of a settlement, about: without holding anything."""
    extra = used - _held_of(row)
    if row.state != State.OPEN or extra <= 0 or not (allowance.limits or row.credits):
        return 0
    parts = _in_force(row, allowance)
    found = Counters(row.tenant_id, row.feature).find(session, [part.place for part in parts])
    free = [_free(part, found[part.place]) for part in parts if part.place in found]
    return max(0, extra - max(0, sum(free) if row.credits else min(free, default=extra)))


def _hold_credits(
    session: Session, row: QuotaReservationRow, allowance: Allowance, now: datetime
) -> QuotaUsage:
    buckets = allowance.buckets
    found = allowance.counters.hold(session, {(one.key, one.since): one.until for one in buckets})
    rows = [found[one.key, one.since] for one in buckets]
    free = [_free(Part.of_bucket(one), counter) for one, counter in zip(buckets, rows, strict=True)]
    taken = burn(free, row.quantity)
    if taken is not None:
        for counter, share in zip(rows, taken, strict=True):
            counter.delegated += share
        pairs = zip(buckets, taken, strict=True)
        _held(row, [Share(one.key, one.since, one.until, share) for one, share in pairs if share])
        row.credits = True
        session.flush()
    usages = zip(buckets, rows, taken or [0] * len(rows), strict=True)
    limits = tuple(
        bucket_usage(one, counter.admitted + counter.unadmitted, share, counter.delegated)
        for one, counter, share in usages
    )
    return QuotaUsage(limits, admitted=taken is not None, as_of=now)


def _held(row: QuotaReservationRow, shares: Sequence[Share]) -> None:
    write_shares(row, shares)
    ends = [share.end for share in shares if share.end is not None]
    row.kept_until = max([row.expires_at, *ends]) + LATE


def _held_of(row: QuotaReservationRow) -> int:
    """What a reservation was granted of every limit; of credits all shares together."""
    held = [share.held for share in shares_of(row)]
    return sum(held) if row.credits else min(held, default=0)


def _counters(session: Session, row: QuotaReservationRow, shares: Sequence[Share]) -> _Rows:
    counters = Counters(row.tenant_id, row.feature)
    return counters.hold(session, {share.place: share.end for share in shares}) if shares else {}


def _give_back(row: QuotaReservationRow, rows: _Rows) -> None:
    for share in shares_of(row):
        # A database that was restored may know less of it than the row says: settling must not fail for that.
        rows[share.place].delegated = max(0, rows[share.place].delegated - share.held)


def _free(part: Part, row: QuotaCounterRow) -> int:
    free = part.free(row)
    return _MOST - row.admitted - row.unadmitted - row.delegated if free is None else free


def _in_force(row: QuotaReservationRow, allowance: Allowance) -> list[Part]:
    """What limits a reservation now: those of its limits that still are, or the credits that there are."""
    if row.credits:
        return [Part.of_bucket(bucket) for bucket in allowance.buckets]
    places = {share.place for share in shares_of(row)}
    parts = (Part.of_limit(limit, row.reserved_at) for limit in allowance.limits)
    return [part for part in parts if part.place in places]


def _settled_limits(
    row: QuotaReservationRow, rows: _Rows, shares: Sequence[Share], used: int, allowance: Allowance
) -> list[Share]:
    admitted = 0
    if row.state == State.OPEN:
        covered = min([used, *(share.held for share in shares)])
        # What it held is there again by now, and is its own.
        free = [_free(part, rows[part.place]) - covered for part in _in_force(row, allowance)]
        admitted = covered + max(0, min([used - covered, *free]))
    return [_counted(share, admitted, used - admitted) for share in shares]


def _settled_credits(
    row: QuotaReservationRow, rows: _Rows, shares: Sequence[Share], used: int, allowance: Allowance
) -> list[Share]:
    """First what it held, then what the grants in force have left, in order; the last one has the rest."""
    was_open, left = row.state == State.OPEN, used
    amounts = dict.fromkeys((share.place for share in shares), 0)
    if was_open:
        for share in shares:
            amounts[share.place] = min(share.held, left)
            left -= amounts[share.place]
    for part in _in_force(row, allowance):
        more = max(0, min(left, _free(part, rows[part.place]) - amounts[part.place]))
        amounts[part.place] += more
        left -= more
    last = allowance.buckets[-1] if allowance.buckets else None
    bearing = shares[-1].place if last is None else (last.key, last.since)
    return [
        _counted(
            share,
            amounts[share.place] if was_open else 0,
            (0 if was_open else amounts[share.place]) + (left if share.place == bearing else 0),
        )
        for share in shares
    ]


def _counted(share: Share, admitted: int, unadmitted: int) -> Share:
    return msgspec.structs.replace(share, admitted=admitted, unadmitted=unadmitted)


def _note(row: QuotaReservationRow, shares: Sequence[Share], used: int, now: datetime) -> None:
    """What was settled, and how long its row is needed for it."""
    plain = bool(shares) and all(
        not share.unadmitted and (share.end is None or now < share.end) for share in shares
    )
    row.returned = max(0, _held_of(row) - used) if row.state == State.OPEN else 0
    write_shares(row, shares)
    row.state, row.ended_at = State.SETTLED.value, now
    if plain:
        row.kept_until = now + ANSWERED


def _overage(row: QuotaReservationRow, shares: Sequence[Share], allowance: Allowance) -> int:
    """What nobody had admitted; of soft limits it is allowed."""
    if row.credits:
        return sum(share.unadmitted for share in shares)
    hard = {part.place for part in _in_force(row, allowance) if not part.soft}
    return max((share.unadmitted for share in shares if share.place in hard), default=0)
