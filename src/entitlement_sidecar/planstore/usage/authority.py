"""The root authority: one row per (tenant, feature, limit, window), and no grant beyond it (DESIGN 7).

    admitted + unadmitted + delegated + n <= amount

holds for every grant of a hard limit, because it is the condition of the very statement that adds `n`. Soft
limits always admit and are counted alike. All limits of a feature admit together, or none does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Row, select, update
from sqlalchemy.orm import Session
from uuid6 import uuid7

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, Limit
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import IdempotencyConflictError, InvalidInputError
from entitlement_sidecar.domain.quota import LimitUsage, QuotaUsage
from entitlement_sidecar.domain.window import Window, window_at
from entitlement_sidecar.planstore.db import Database, QuotaAdmissionRow, QuotaCounterRow
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.telemetry import metrics

_COUNTER_MAX = 2**62
"""What a counter of a soft limit may reach: beyond it the next addition could leave 64 bits."""

Amounts = Row[int, int, int] | tuple[int, int, int]


class Admission(msgspec.Struct, frozen=True):
    """What is asked of the authority. `request_id` may be empty only when `quantity` is 0, which reads."""

    tenant_id: str
    feature: str
    quantity: int
    request_id: str
    limits: tuple[Limit, ...]


class _FullError(Exception):
    """A limit has no room: undoes what other limits of the same admission took."""


class _RepeatedError(Exception):
    """Another transaction has just admitted the same request id."""


class RootAuthority:
    """Admits usage against the rows of the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def consume(
        self, tenant_id: str, feature: str, quantity: int, request_id: str, limits: tuple[Limit, ...]
    ) -> QuotaUsage:
        """As `admit`, in a transaction of its own."""
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
            InvalidInputError: The quantity is out of range, or the request id is missing.
        """
        _validate(admission)
        now = self._clock.now()
        outcome, usage = _judged(session, admission, now)
        metrics.admissions.labels(outcome).inc()
        return usage


def _judged(session: Session, admission: Admission, now: datetime) -> tuple[str, QuotaUsage]:
    if admission.quantity == 0:
        return "viewed", QuotaUsage(_view(session, admission, now), None, now)
    if repeated := _repeated(session, admission):
        return "repeated", repeated
    try:
        with session.begin_nested():
            return "admitted", _take(session, admission, now)
    except _FullError:
        return "refused", QuotaUsage(_view(session, admission, now), admitted=False, as_of=now)
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


def _repeated(session: Session, admission: Admission) -> QuotaUsage | None:
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
    return msgspec.json.decode(row.response, type=QuotaUsage)


def _take(session: Session, admission: Admission, now: datetime) -> QuotaUsage:
    limits = tuple(_take_from(session, admission, limit, now) for limit in _ordered(admission.limits))
    usage = QuotaUsage(limits, admitted=True, as_of=now, lease_id=f"root:{uuid7().hex}")
    _remember(session, admission, usage, now)
    return usage


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


def _take_from(session: Session, admission: Admission, limit: Limit, now: datetime) -> LimitUsage:
    window = window_at(limit.window, now)
    row = _counter(admission.tenant_id, admission.feature, limit, window)
    session.execute(insert_for(session, QuotaCounterRow).values(**row).on_conflict_do_nothing())
    counter = QuotaCounterRow
    spent = counter.admitted + counter.unadmitted + counter.delegated
    taking = (
        update(counter)
        .where(
            counter.tenant_id == admission.tenant_id,
            counter.feature == admission.feature,
            counter.limit_key == limit.key,
            counter.window_start == window.start,
            spent <= _room(limit) - admission.quantity,
        )
        .values(admitted=counter.admitted + admission.quantity)
        .returning(counter.admitted, counter.unadmitted, counter.delegated)
        .execution_options(synchronize_session=False)
    )
    amounts = session.execute(taking).first()
    if amounts is None:
        raise _FullError
    return _usage(limit, window, amounts)


def _room(limit: Limit) -> int:
    return _COUNTER_MAX if limit.soft or limit.amount is None else limit.amount


def _view(session: Session, admission: Admission, now: datetime) -> tuple[LimitUsage, ...]:
    counter = QuotaCounterRow
    query = select(counter).where(
        counter.tenant_id == admission.tenant_id,
        counter.feature == admission.feature,
        counter.limit_key.in_([limit.key for limit in admission.limits]),
        counter.window_start.in_({window_at(limit.window, now).start for limit in admission.limits}),
    )
    fresh = session.scalars(query, execution_options={"populate_existing": True})
    found = {
        (row.limit_key, row.window_start): (row.admitted, row.unadmitted, row.delegated) for row in fresh
    }
    views = []
    for limit in _ordered(admission.limits):
        window = window_at(limit.window, now)
        views.append(_usage(limit, window, found.get((limit.key, window.start), (0, 0, 0))))
    return tuple(views)


def _usage(limit: Limit, window: Window, amounts: Amounts) -> LimitUsage:
    admitted, unadmitted, delegated = amounts
    return LimitUsage(
        key=limit.key,
        amount=limit.amount,
        soft=limit.soft,
        window_start=window.start,
        reset_at=window.end,
        used=admitted + unadmitted,
        outstanding=delegated,
    )


def _counter(tenant_id: str, feature: str, limit: Limit, window: Window) -> dict[str, str | datetime | None]:
    return {
        "tenant_id": tenant_id,
        "feature": feature,
        "limit_key": limit.key,
        "window_start": window.start,
        "window_end": window.end,
    }


def _ordered(limits: Sequence[Limit]) -> list[Limit]:
    """One order for everyone, so that transactions which take several rows never wait in a circle."""
    return sorted(limits, key=lambda limit: limit.key)
