"""The root authority: one row per (tenant, feature, limit, window), and no grant beyond it (DESIGN 7).

    admitted + unadmitted + delegated + n <= amount + carried

holds for every grant of a hard limit, because it is the condition of the very statement that adds `n`. Soft
limits always admit and are counted alike. All limits of a feature admit together, or none does. A seat is one
of a limit, taken once per subject and window; credits are taken from grants in burn order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, delete, select, tuple_
from sqlalchemy.orm import Session
from uuid6 import uuid7

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, Feature, FeatureKind, Limit
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import IdempotencyConflictError, InvalidInputError
from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.quota import LimitUsage, QuotaUsage, bucket_usage, burn
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.planstore.db import Database, QuotaAdmissionRow, QuotaCounterRow, QuotaSeatRow
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.planstore.usage.counters import Counters, Place, usage_of
from entitlement_sidecar.telemetry import metrics

# Made before there are threads, as in `catalogue.plans`.
_usage = msgspec.json.Decoder(QuotaUsage).decode


class Admission(msgspec.Struct, frozen=True):
    """What is asked of the authority. `request_id` may be empty only when `quantity` is 0, which reads.

    Seats need the `subject` that takes one; credits have `buckets` instead of limits.
    """

    tenant_id: str
    feature: str
    quantity: int
    request_id: str
    limits: tuple[Limit, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    subject: str = ""
    seats: bool = False

    @classmethod
    def of(
        cls, tenant_id: str, feature: Feature, resolution: Resolution, quantity: int, request_id: str
    ) -> Admission:
        """What a feature needs that resolves so, but for the subject of a seat."""
        return cls(
            tenant_id,
            feature.key,
            quantity,
            request_id,
            resolution.limits,
            resolution.buckets,
            seats=feature.kind is FeatureKind.SEATS,
        )

    def view(self) -> Admission:
        """The same without taking anything."""
        return msgspec.structs.replace(self, quantity=0, request_id="")

    @property
    def counters(self) -> Counters:
        """Where it is counted."""
        return Counters(self.tenant_id, self.feature)


class _FullError(Exception):
    """A limit has no room: undoes what other limits of the same admission took."""


class _RepeatedError(Exception):
    """Another transaction has just admitted the same request id."""


class _NotAllError(Exception):
    """One of several admissions was refused: undoes the others."""


class RootAuthority:
    """Admits usage against the rows of the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def consume(
        self, tenant_id: str, feature: str, quantity: int, request_id: str, limits: tuple[Limit, ...]
    ) -> QuotaUsage:
        """As `admit` of a metered feature, in a transaction of its own."""
        admission = Admission(tenant_id, feature, quantity, request_id, limits)
        if quantity == 0:
            with self._database.reading() as session:
                return self.admit(session, admission)
        with self._database.writing() as session:
            return self.admit(session, admission)

    def admit(self, session: Session, admission: Admission) -> QuotaUsage:
        """Admits a quantity inside every limit, or nothing, in the caller's transaction.

        The same request id again gets the first answer. A refusal is not remembered.

        Raises:
            IdempotencyConflictError: The request id came before with another feature or quantity.
            InvalidInputError: The quantity is out of range, or the request id or a seat's subject is missing.
        """
        _validate(admission)
        outcome, usage = _judged(session, admission, self._clock.now())
        metrics.admissions.labels(outcome).inc()
        return usage

    def admit_all(
        self, session: Session, admissions: Sequence[Admission | None]
    ) -> tuple[bool, list[QuotaUsage]]:
        """Admits everything in the caller's transaction, or nothing; raises as `admit`.

        None stands for what the tenant lacks, and is refused. Where one is refused, `admitted` of the others
        says whether they would have been, after those before them; nothing is used then.
        """
        for admission in admissions:
            if admission is not None:
                _validate(admission)
        now = self._clock.now()
        answers: list[_Answer] = []
        try:
            with session.begin_nested():
                answers += _all_judged(session, admissions, now)
                if not all(usage.admitted for _, usage in answers):
                    raise _NotAllError
        except _NotAllError:
            answers = [
                _undone(session, admission, answer, now)
                for admission, answer in zip(admissions, answers, strict=True)
            ]
        for outcome, _ in answers:
            metrics.admissions.labels(outcome).inc()
        usages = [usage for _, usage in answers]
        return all(outcome in {"admitted", "repeated"} for outcome, _ in answers), usages

    def release_seat(self, session: Session, admission: Admission) -> bool:
        """Gives the subject's seat of the windows that run now back. Says whether it had one."""
        mine = _my_seats(admission, [place for place, _ in _places(admission.limits, self._clock.now())])
        freed = session.execute(
            delete(QuotaSeatRow).where(*mine).returning(QuotaSeatRow.limit_key, QuotaSeatRow.window_start)
        ).all()
        for limit_key, window_start in sorted((key, start) for key, start in freed):
            admission.counters.give_back(session, (limit_key, window_start), 1)
        return bool(freed)


_Answer = tuple[str, QuotaUsage]
"""An outcome, as it is counted, and what is answered."""


def _all_judged(session: Session, admissions: Sequence[Admission | None], now: datetime) -> list[_Answer]:
    """Feature by feature, in one order for everyone here too; of one feature in the order given."""
    answers: dict[int, _Answer] = {}
    for index, admission in sorted(enumerate(admissions), key=lambda one: one[1].feature if one[1] else ""):
        lacking = ("refused", QuotaUsage(admitted=False, as_of=now))
        answers[index] = lacking if admission is None else _judged(session, admission, now)
    return [answers[index] for index in range(len(admissions))]


def _undone(session: Session, admission: Admission | None, answer: _Answer, now: datetime) -> _Answer:
    """What is said of one of several after all: what it had taken is there again."""
    outcome, _ = answer
    if admission is None or outcome != "admitted":
        return answer
    return "refused", msgspec.structs.replace(_view(session, admission, now), admitted=True)


def _judged(session: Session, admission: Admission, now: datetime) -> _Answer:
    if admission.quantity == 0:
        return "viewed", _view(session, admission, now)
    if repeated := _repeated(session, admission):
        return "repeated", repeated
    try:
        with session.begin_nested():
            return "admitted", _take(session, admission, now)
    except _FullError:
        # It may be full of this very request, admitted by another transaction meanwhile.
        if repeated := _repeated(session, admission):
            return "repeated", repeated
        return "refused", msgspec.structs.replace(_view(session, admission, now), admitted=False)
    except _RepeatedError:
        repeated = _repeated(session, admission)
        if repeated is None:
            raise
        return "repeated", repeated


def _validate(admission: Admission) -> None:
    if not 0 <= admission.quantity <= MAX_QUANTITY:
        raise InvalidInputError.of("quantity", f"expected 0 to {MAX_QUANTITY}")
    if admission.quantity and not admission.request_id:
        raise InvalidInputError.of("request_id", "required when quantity is above 0")
    if admission.quantity and admission.seats and not admission.subject:
        raise InvalidInputError.of("subject", f"expected who takes the seat of {admission.feature!r}")


def _repeated(session: Session, admission: Admission) -> QuotaUsage | None:
    if admission.seats:
        # A seat is taken once per subject, whatever the request is called.
        return None
    query = select(QuotaAdmissionRow).where(
        QuotaAdmissionRow.tenant_id == admission.tenant_id,
        QuotaAdmissionRow.request_id == admission.request_id,
    )
    row = session.scalars(query).first()
    if row is None:
        return None
    if (row.feature, row.quantity) != (admission.feature, admission.quantity):
        raise IdempotencyConflictError(
            f"request_id {admission.request_id!r} was used for {row.quantity} of {row.feature!r}: "
            "use a new one for another request"
        )
    return _usage(row.response)


def _take(session: Session, admission: Admission, now: datetime) -> QuotaUsage:
    if admission.seats:
        return _take_seat(session, admission, now)
    if admission.buckets:
        limits = _burn(session, admission)
    else:
        limits = tuple(_take_from(session, admission, limit, now) for limit in _ordered(admission.limits))
    usage = QuotaUsage(limits, admitted=True, as_of=now, lease_id=f"root:{uuid7().hex}")
    _remember(session, admission, usage, now)
    return usage


def _take_from(session: Session, admission: Admission, limit: Limit, now: datetime) -> LimitUsage:
    usage = admission.counters.take(session, limit, admission.quantity, now)
    if usage is None:
        raise _FullError
    return usage


def _take_seat(session: Session, admission: Admission, now: datetime) -> QuotaUsage:
    """One seat of every limit in which the subject has none yet."""
    for limit in _ordered(admission.limits):
        window = window_at(limit.window, now)
        seat = insert_for(session, QuotaSeatRow).values(
            tenant_id=admission.tenant_id,
            feature=admission.feature,
            limit_key=limit.key,
            window_start=window.start,
            subject=admission.subject,
            taken_at=now,
        )
        if session.execute(seat.on_conflict_do_nothing().returning(QuotaSeatRow.subject)).first() is None:
            continue
        if admission.counters.take(session, limit, 1, now) is None:
            raise _FullError
    return msgspec.structs.replace(_view(session, admission, now), admitted=True, lease_id="root:seat")


def _burn(session: Session, admission: Admission) -> tuple[LimitUsage, ...]:
    """Takes the quantity from credit grants in their order."""
    places = {(bucket.key, bucket.since): bucket.until for bucket in admission.buckets}
    rows = admission.counters.hold(session, places)
    held = [rows[bucket.key, bucket.since] for bucket in admission.buckets]
    left = [
        max(0, (bucket.amount or 0) - row.admitted - row.unadmitted - row.delegated)
        for bucket, row in zip(admission.buckets, held, strict=True)
    ]
    shares = burn(left, admission.quantity)
    if shares is None:
        raise _FullError
    for row, share in zip(held, shares, strict=True):
        row.admitted += share
    session.flush()
    return tuple(
        bucket_usage(bucket, row.admitted + row.unadmitted, share, row.delegated)
        for bucket, row, share in zip(admission.buckets, held, shares, strict=True)
    )


def _remember(session: Session, admission: Admission, usage: QuotaUsage, now: datetime) -> None:
    insert = insert_for(session, QuotaAdmissionRow).values(
        tenant_id=admission.tenant_id,
        request_id=admission.request_id,
        feature=admission.feature,
        quantity=admission.quantity,
        lease_id=usage.lease_id,
        admitted_at=now,
        response=msgspec.json.encode(usage),
    )
    stored = session.execute(insert.on_conflict_do_nothing().returning(QuotaAdmissionRow.request_id))
    if stored.first() is None:
        raise _RepeatedError


def _view(session: Session, admission: Admission, now: datetime) -> QuotaUsage:
    if admission.buckets:
        return QuotaUsage(_view_of_credits(session, admission), as_of=now)
    placed = _places(admission.limits, now)
    found = admission.counters.find(session, [place for place, _ in placed])
    seats = _seats(session, admission, [place for place, _ in placed])
    limits = tuple(
        msgspec.structs.replace(_told(session, admission, limit, found.get(place), now), holds=place in seats)
        for place, limit in placed
    )
    return QuotaUsage(limits, as_of=now, holds=bool(seats) and len(seats) == len(placed))


def _told(
    session: Session, admission: Admission, limit: Limit, row: QuotaCounterRow | None, now: datetime
) -> LimitUsage:
    window = window_at(limit.window, now)
    fixed = row is not None and row.carried is not None
    carried = 0 if fixed else admission.counters.carried_into(session, limit, window)
    return usage_of(limit, window, row, carried)


def _view_of_credits(session: Session, admission: Admission) -> tuple[LimitUsage, ...]:
    found = admission.counters.find(session, [(bucket.key, bucket.since) for bucket in admission.buckets])
    rows = [(bucket, found.get((bucket.key, bucket.since))) for bucket in admission.buckets]
    return tuple(
        bucket_usage(bucket, row.admitted + row.unadmitted if row else 0, 0, row.delegated if row else 0)
        for bucket, row in rows
    )


def _seats(session: Session, admission: Admission, places: Sequence[Place]) -> set[Place]:
    """Where the subject has its seat."""
    if not (admission.seats and admission.subject):
        return set()
    mine = _my_seats(admission, places)
    query = select(QuotaSeatRow.limit_key, QuotaSeatRow.window_start).where(*mine)
    return {(key, start) for key, start in session.execute(query)}


def _my_seats(admission: Admission, places: Sequence[Place]) -> list[ColumnElement[bool]]:
    seat = QuotaSeatRow
    return [
        seat.tenant_id == admission.tenant_id,
        seat.feature == admission.feature,
        seat.subject == admission.subject,
        # Pairs: another limit's window may have begun when an earlier one of this limit did.
        tuple_(seat.limit_key, seat.window_start).in_(places),
    ]


def _places(limits: Sequence[Limit], now: datetime) -> list[tuple[Place, Limit]]:
    return [((limit.key, window_at(limit.window, now).start), limit) for limit in _ordered(limits)]


def _ordered(limits: Sequence[Limit]) -> list[Limit]:
    """One order for everyone, so that transactions which take several rows never wait in a circle."""
    return sorted(limits, key=lambda limit: limit.key)
