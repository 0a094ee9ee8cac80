"""Reservations at the plan store: decided by the newest snapshot, held and settled in one transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision, Reason
from entitlement_sidecar.domain.emergency import admission_of
from entitlement_sidecar.domain.errors import (
    InvalidInputError,
    NotFoundError,
)
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import QuotaAsk
from entitlement_sidecar.domain.reservation import Reserved, Reserving, Settled, Settlement, State
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.planstore.db import Database, QuotaReservationRow
from entitlement_sidecar.planstore.leases.recall import Recall, no_blocks
from entitlement_sidecar.planstore.snapshots import held_now, limits_of
from entitlement_sidecar.planstore.usage import reservations
from entitlement_sidecar.planstore.usage.allowances import Allowance
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.reservation_rows import claim, find, locked, require_same
from entitlement_sidecar.planstore.usage.settlements import allowance_of
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.codec import decision_from_proto, decision_to_proto
from entitlement_sidecar.wire.v1 import decision_pb2

_RESERVED = frozenset({FeatureKind.METERED, FeatureKind.CREDITS})
"""Kinds of which an amount can be held."""

_EXHAUSTED = frozenset({Reason.QUOTA_EXCEEDED, Reason.CREDITS_EXHAUSTED})


class Reservations:
    """Reserves, settles and releases, each in a transaction of its own."""

    def __init__(self, database: Database, clock: Clock, recall: Recall = no_blocks) -> None:
        self._database = database
        self._clock = clock
        self._recall = recall
        self._ledger = Ledger(limits_of)

    def reserve(self, asked: Reserving) -> Reserved:
        """Holds an amount of every limit, or nothing. The same again gets the first answer.

        A refusal is not remembered. Before it what lies free in blocks is called back.

        Raises:
            IdempotencyConflictError: The reservation's id came before with other content.
            InvalidInputError: Of this feature nothing can be held.
        """
        answer = self._reserve(asked)
        refused = answer.decision.reason in _EXHAUSTED
        if refused and self._recall(asked.tenant_id, asked.feature, asked.quantity):
            answer = self._reserve(asked)
        metrics.reservations.labels("refused" if answer.expires_at is None else "held").inc()
        return answer

    def settle(self, settlement: Settlement, instance: str) -> Settled:
        """Stores its usage event; a second time it is a DUPLICATE with the same amounts.

        Raises:
            NotFoundError: There is no such reservation.
            IdempotencyConflictError: It was settled with other content.
        """
        self._recall_for(settlement)
        with self._database.writing() as session:
            row = _required(session, settlement.tenant_id, settlement.reservation_id)
            now = self._clock.now()
            arrival = Arrival(settlement.event(now, instance))
            result = self._ledger.append(session, [arrival], now)[0]
            if result.outcome is UsageOutcome.CONFLICT:
                raise settlement.conflict()
            return Settled(result, row.returned, row.overage)

    def release(self, tenant_id: str, reservation_id: str) -> int:
        """Gives back what is held; what came back, the same when it is given back already.

        Raises:
            NotFoundError: There is no such reservation.
            IllegalTransitionError: It was settled.
        """
        with self._database.writing() as session:
            row = _required(session, tenant_id, reservation_id)
            was_open = row.state == State.OPEN
            returned = reservations.release(session, row, State.RELEASED, self._clock.now())
        if was_open:
            metrics.reservations.labels("released").inc()
        return returned

    def _reserve(self, asked: Reserving) -> Reserved:
        now = self._clock.now()
        with self._database.writing() as session:
            held = held_now(session, asked.tenant_id, now)
            feature = held.catalogue.features.get(asked.feature)
            if feature is not None and feature.kind not in _RESERVED:
                kind = feature.kind.name.lower()
                problem = f"{asked.feature!r} is {kind}; expected a metered feature or credits"
                raise InvalidInputError.of("feature", problem)
            metric = asked.feature if feature is None else feature.metric or feature.key
            row = claim(session, asked, metric, now)
            if row is None:
                return _earlier(session, asked)
            decision = self._decide(session, row, held, now)
            if not decision.allowed:
                session.delete(row)
                return Reserved(decision)
            row.answer = decision_to_proto(decision).SerializeToString()
            return Reserved(decision, row.expires_at)

    def _decide(self, session: Session, row: QuotaReservationRow, held: Held, now: datetime) -> Decision:
        request = CheckRequest(
            row.tenant_id, row.feature, CheckMode.CONSUME, row.quantity, row.subject, row.reservation_id
        )
        outcome = evaluate(held, request, None, now)
        if isinstance(outcome, QuotaAsk):
            limits, buckets = outcome.resolution.limits, outcome.resolution.buckets
            usage = reservations.hold(
                session, row, Allowance(row.tenant_id, row.feature, limits, buckets), now
            )
            outcome = evaluate(held, request, usage, now)
        elif admission_of(outcome) == "":
            # Opened in an emergency: nothing is asked, but what is used is counted.
            reservations.watch(row, allowance_of(session, row, limits_of, now), now)
        if isinstance(outcome, QuotaAsk):
            raise TypeError("a decision asks for quota twice")
        return outcome

    def _recall_for(self, settlement: Settlement) -> None:
        """What is used beyond the reservation may lie free in blocks."""
        with self._database.reading() as session:
            row = find(session, settlement.tenant_id, settlement.reservation_id)
            if row is None:
                return
            allowance = allowance_of(session, row, limits_of, self._clock.now())
            missing = reservations.shortfall(session, row, settlement.quantity, allowance)
            feature = row.feature
        if missing:
            self._recall(settlement.tenant_id, feature, missing)


def _earlier(session: Session, asked: Reserving) -> Reserved:
    row = _required(session, asked.tenant_id, asked.reservation_id)
    require_same(row, asked)
    decision = decision_from_proto(decision_pb2.Decision.FromString(row.answer))
    return Reserved(decision, row.expires_at)


def _required(session: Session, tenant_id: str, reservation_id: str) -> QuotaReservationRow:
    """A reservation, held until the transaction ends."""
    known = find(session, tenant_id, reservation_id)
    rows = [] if known is None else list(locked(session, [(tenant_id, known.event_id)]).values())
    if not rows:
        raise NotFoundError(
            f"no reservation {reservation_id!r} of tenant {tenant_id!r}: "
            "it was never made, or is over since long"
        )
    return rows[0]
