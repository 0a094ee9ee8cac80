"""CONSUMEs that are ready: everything but the tokens is prepared from the last one of its kind (ADR 18).

A CONSUME without a request id, of a feature that this sidecar holds a lease of, differs from the one before
in its identity, its instant and what is left. What they have in common is serialised once, as answer and as
usage event; each call adds its own to both:

    take from the lease ──▶ event to the gathering ──commit──▶ kept ──▶ answer
                                                   └─ refused ─▶ void ─▶ error

It is used while the same is known of the tenant, in the same interval, with the same view of usage, and
below the usage at which an answer says something else (a warning, overage). Everything else, and the first
call of each kind, goes the ordinary way (`decisions.check`).
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.catalogue import Classification
from entitlement_sidecar.domain.decision import Decision
from entitlement_sidecar.domain.errors import OutboxFullError
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import LimitUsage
from entitlement_sidecar.sidecar.decisions.alike import (
    Consumed,
    is_alike,
    is_plain,
    is_seen_by,
    is_usual,
    span_of,
    until,
)
from entitlement_sidecar.sidecar.decisions.basis import counter
from entitlement_sidecar.sidecar.decisions.consumption import Consumptions, metric_of
from entitlement_sidecar.sidecar.decisions.knowing import Knowing
from entitlement_sidecar.sidecar.leases.authority import Grip, QuotaAuthority
from entitlement_sidecar.sidecar.promise import Promise
from entitlement_sidecar.sidecar.usage.gathering import Gathering, Keeping
from entitlement_sidecar.sidecar.usage.identity import event_ids
from entitlement_sidecar.sidecar.usage.outbox import PreparedRecord
from entitlement_sidecar.sidecar.usage.window import lane_of
from entitlement_sidecar.wire.codec import decision_to_proto, maybe_timestamp, microseconds, to_timestamp
from entitlement_sidecar.wire.v1 import decision_pb2, frames_pb2, usage_pb2

MAX_READY = 32_768
"""Kept ready at most, each of one tenant's feature."""

_SWEPT = 2
"""Entries that are looked at for each that is made."""


class _Ready(msgspec.Struct):
    """What calls about one tenant's feature have in common.

    Attributes:
        held: What is known of the tenant; it may be confirmed again.
        grip: What the tokens come from.
        view: What `grip` was seen by.
        since: When the first of them was decided; the clock may be set back.
        until: When something else is resolved, or a window ends.
        count: Counts decisions like it.
        common: The decision, serialised, without `as_of` and without what `_response` adds.
        answer: As `common`, with the `as_of` of `held`.
        event: The usage event, serialised, without what `_taken` adds.
        keeping: How it is kept.
        lane: Its lane in the outbox.
        used: What the decision said, without what was pending.
        remaining: As `used`.
        least: What has to be pending, and
        most: what may be pending, while the answer says the same otherwise.
    """

    held: Held
    grip: Grip
    view: Sequence[LimitUsage]
    since: datetime
    until: datetime
    count: Callable[[float], None]
    common: bytes
    answer: bytes
    event: bytes
    keeping: Keeping
    lane: int
    used: int
    remaining: int
    least: int
    most: int


class _Moment(msgspec.Struct, frozen=True):
    """The instant of one turn of the event loop: all that is taken in it happens then.

    `at` is in microseconds since 1970; `stamps` are both instants of a usage event, serialised; `name` makes
    identities of events. `generation` is that of what is known, None where the feed does not confirm it.
    """

    now: datetime
    at: int
    stamps: bytes
    name: Callable[[], str]
    generation: int | None

    @classmethod
    def of(cls, now: datetime, generation: int | None) -> _Moment:
        """An instant."""
        stamp = to_timestamp(now)
        stamps = usage_pb2.UsageEvent(occurred_at=stamp, recorded_at=stamp).SerializeToString()
        return cls(now, microseconds(now), stamps, event_ids().__next__, generation)


class _Taken(Promise):
    """Tokens taken for one call, whose event is on its way to the disk: the answer comes after the commit."""

    __slots__ = ("_admission", "_maker", "_prepared", "_ready")

    def __init__(
        self, maker: ReadyConsumptions, ready: _Ready, admission: _Admission, prepared: bytes
    ) -> None:
        super().__init__()
        self._maker = maker
        self._ready = ready
        self._admission = admission
        self._prepared = prepared

    def told(self, error: BaseException | None) -> None:
        """The event was committed, or not."""
        if error is None:
            self._maker.kept(self._admission, self._ready)
            self.keep(self._prepared)
        else:
            self._maker.void(self._admission, error)
            self.keep(None, error)


class _Admission(msgspec.Struct, frozen=True, gc=False):
    """What was taken from which lease."""

    tenant_id: str
    lease_id: str
    quantity: int


class ReadyConsumptions:
    """Answers CONSUMEs that are ready, and makes them ready."""

    def __init__(self, knowing: Knowing, authority: QuotaAuthority, consumptions: Consumptions) -> None:
        self._knowing = knowing
        self._clock = knowing.clock
        self._authority = authority
        self._consumptions = consumptions
        self._reporter = consumptions.reporter
        self._outbox = consumptions.outbox
        self._gathering = Gathering(consumptions.outbox)
        self._entries: OrderedDict[tuple[str, str], _Ready] = OrderedDict()
        self._moment: _Moment | None = None
        # Filled anew for each call: to make a message takes longer than to fill it.
        self._own = usage_pb2.UsageEvent()
        self._numbers = decision_pb2.Decision()
        self._frame = frames_pb2.CheckResponseFrame()
        self._counted: dict[Callable[[float], None], int] = {}

    def take(self, message: decision_pb2.CheckEntitlementRequest) -> Promise | None:
        """Consumes, if that is ready: a serialised CheckEntitlementResponse, after the commit.

        None: nothing was done, and the call goes the ordinary way.
        """
        key = message.tenant_id, message.feature
        ready = self._entries.get(key)
        if ready is None or not is_plain(message):
            return None
        moment = self._moment or self._begun()
        if not self._holds(ready, key, moment):
            del self._entries[key]
            return None
        quantity = message.quantity if message.HasField("quantity") else 1
        if quantity <= 0 or not self._may_take(ready, ready.grip.pending + quantity):
            return None
        lease_id = ready.grip.take(quantity, moment.now)
        return (
            self._taken(ready, message, _Admission(key[0], lease_id, quantity), moment) if lease_id else None
        )

    def _may_take(self, ready: _Ready, pending: int) -> bool:
        """Whether the answer would say the same with so much pending, and its event can be kept."""
        return (
            ready.least <= pending <= ready.most
            and not self._consumptions.full_until
            and self._outbox.has_room(billable=ready.keeping[1])
        )

    def kept(self, admission: _Admission, ready: _Ready) -> None:
        """What was taken is used, and is about to be answered."""
        self._authority.kept(admission.lease_id, admission.quantity)
        if not self._counted:
            get_running_loop().call_soon(self._count)
        self._counted[ready.count] = self._counted.get(ready.count, 0) + 1

    def void(self, admission: _Admission, error: BaseException) -> None:
        """What was taken is not used."""
        if isinstance(error, OutboxFullError):
            self._consumptions.note_full()
        self._authority.void(admission.tenant_id, admission.lease_id, admission.quantity)

    def _begun(self) -> _Moment:
        """The instant of this turn of the event loop, which ends before anything waits."""
        now = self._clock.now()
        self._moment = _Moment.of(now, self._knowing.generation(now))
        get_running_loop().call_soon(self._ended)
        return self._moment

    def _ended(self) -> None:
        self._moment = None

    def _count(self) -> None:
        """Counts decisions, of each kind at once: a metric's counter is dearer than a decision."""
        counted, self._counted = self._counted, {}
        for count, decisions in counted.items():
            count(decisions)

    def _holds(self, ready: _Ready, key: tuple[str, str], moment: _Moment) -> bool:
        """Whether the answer would be the same, but for what is left, and a younger `as_of`."""
        if ready.grip.view is not ready.view or not ready.since <= moment.now < ready.until:
            return False
        tenant_id, before = key[0], ready.held
        if self._knowing.is_still(tenant_id, before, moment.generation):
            return True
        held = self._knowing.in_memory(tenant_id)
        if held is before:
            return True
        if held is None or not is_alike(held, before, key[1]):
            return False
        ready.held, ready.answer = held, ready.common + _as_of(held)
        return True

    def _taken(
        self,
        ready: _Ready,
        message: decision_pb2.CheckEntitlementRequest,
        admission: _Admission,
        moment: _Moment,
    ) -> Promise:
        event_id = moment.name()
        own = self._own
        own.id = event_id
        own.value = admission.quantity
        own.correlation_id = message.correlation_id or event_id
        own.lease_id = admission.lease_id
        subject = message.subject
        own.subject = self._reporter.shown(admission.tenant_id, subject) if subject else ""
        record = PreparedRecord(
            admission.tenant_id,
            event_id,
            moment.at,
            ready.event + moment.stamps + own.SerializeToString(),
            ready.lane,
            admission.lease_id,
            admission.quantity,
        )
        taken = _Taken(self, ready, admission, self._response(ready, event_id))
        self._gathering.keep(record, ready.keeping, taken)
        return taken

    def _response(self, ready: _Ready, event_id: str) -> bytes:
        """The answer of a call whose tokens were just taken."""
        numbers, pending = self._numbers, ready.grip.pending
        numbers.used = ready.used + pending
        numbers.remaining = max(0, ready.remaining - pending)
        numbers.held = ready.grip.left
        numbers.pending = pending
        numbers.consumption_id = event_id
        self._frame.decision = ready.answer + numbers.SerializeToString()
        return self._frame.SerializeToString()

    def learn(self, consumed: Consumed) -> None:
        """Makes CONSUMEs like this one ready, if it was allowed from a lease and others will be like it."""
        key = consumed.request.tenant_id, consumed.request.feature
        grip, held = self._authority.grip(*key), self._knowing.in_memory(key[0])
        if grip is None or held is None or self._is_ready(key, grip):
            return
        # It took a while to keep it: something else may be known by now, and another usage be seen.
        if not is_alike(held, consumed.held, key[1]) or not is_seen_by(grip, consumed.usage):
            return
        metric = metric_of(held.catalogue, key[1])
        if held.catalogue.break_glass or not is_usual(consumed.decision, metric):
            return
        event = self._reporter.consume_alike(consumed.request, metric)
        if event is not None:
            keeping = metric.durability, metric.classification is Classification.BILLABLE
            self._put(key, _made(consumed, held, grip, (event, keeping, lane_of(key[0], metric.key))))

    def _is_ready(self, key: tuple[str, str], grip: Grip) -> bool:
        """Whether there is nothing to learn."""
        ready = self._entries.get(key)
        return (
            ready is not None
            and ready.grip is grip
            and ready.least <= grip.pending <= ready.most
            and self._holds(ready, key, self._moment or self._begun())
        )

    def _put(self, key: tuple[str, str], ready: _Ready) -> None:
        self._entries.pop(key, None)
        self._entries[key] = ready
        for _ in range(_SWEPT):
            self._sweep()

    def _sweep(self) -> None:
        """Looks at the entry looked at longest ago: it goes with its tenant, whose snapshot it keeps."""
        key, ready = self._entries.popitem(last=False)
        if len(self._entries) < MAX_READY and self._knowing.holds(key[0]):
            self._entries[key] = ready


def _made(consumed: Consumed, held: Held, grip: Grip, kept: tuple[bytes, Keeping, int]) -> _Ready:
    """What is ready after a decision. `kept` is what becomes of events like its own."""
    decision, span = consumed.decision, span_of(consumed.usage)
    common = _common(decision, held)
    return _Ready(
        held=held,
        grip=grip,
        view=grip.view,
        since=consumed.since,
        until=until(consumed),
        count=counter(decision.reason, decision.degradation),
        common=common,
        answer=common + _as_of(held),
        event=kept[0],
        keeping=kept[1],
        lane=kept[2],
        used=span.used,
        remaining=span.remaining,
        least=span.least,
        most=span.most,
    )


def _common(decision: Decision, held: Held) -> bytes:
    alike = msgspec.structs.replace(
        decision,
        source=held.source,
        as_of=None,
        used=None,
        remaining=None,
        held=0,
        pending=0,
        consumption_id="",
    )
    return decision_to_proto(alike).SerializeToString()


def _as_of(held: Held) -> bytes:
    return decision_pb2.Decision(as_of=maybe_timestamp(held.as_of)).SerializeToString()
