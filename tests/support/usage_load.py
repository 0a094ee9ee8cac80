"""Services that report usage and never give up: what was not answered is sent again, with the same ids.

Each knows in the end what the plan store has to hold of it: what is `counted`, by identity, what is `held` in
quarantine, and between which bounds its rollups add up, which have no identity.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc, usage_pb2, usage_pb2_grpc

TENANTS = ("acme", "globex", "initech")

_QUICK = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 250))
_TIMEOUT = 20.0
_PATIENCE = 120.0
"""Seconds in which every call has to be answered, however often it is tried."""

_AWAY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""Nobody knows what became of the call: the same is tried again."""

_TAKEN = frozenset({UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE})

_T = TypeVar("_T")
Identity = tuple[str, str]


class Fact(NamedTuple):
    """What counts of an event."""

    metric: str
    value: int


class Rolled:
    """What rollups of one subject add up to: `sure` was answered, `at_most` counts every attempt."""

    def __init__(self) -> None:
        self.sure = self.at_most = 0

    def add(self, value: int, attempts: int) -> None:
        """One report that was answered at last; whether earlier attempts counted too, nobody knows."""
        self.sure += value
        self.at_most += value * attempts


class Permits:
    """How many calls may be made, for all services together: a test gives them out as it goes."""

    def __init__(self) -> None:
        self.made = 0
        self._left = 0
        self._over = False
        self._changed = threading.Condition()

    def grant(self, calls: int) -> None:
        """So many more."""
        with self._changed:
            self._left += calls
            self._changed.notify_all()

    def end(self, *, at_once: bool = False) -> None:
        """There will be no more; and those that are left count no more either where it ends at once."""
        with self._changed:
            self._over = True
            self._left = 0 if at_once else self._left
            self._changed.notify_all()

    def take(self) -> bool:
        """Waits for one. False: there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._over)
            if not self._left:
                return False
            self._left -= 1
            self.made += 1
            return True


class Service:
    """One that reports and consumes, from a thread of its own."""

    def __init__(self, number: int, port: int, seed: int, permits: Permits) -> None:
        self.counted: dict[Identity, Fact] = {}
        self.held: set[Identity] = set()
        self.rolled: dict[Identity, Rolled] = {}
        self.unanswered = 0
        self._number = number
        self._made = 0
        self._port = port
        self._dice = random.Random(f"{seed}/{number}")  # noqa: S311 - a test's dice
        self._permits = permits

    def run(self) -> None:
        """Works until there is nothing left to do."""
        with closing(grpc.insecure_channel(f"127.0.0.1:{self._port}", options=_QUICK)) as channel:
            self._usage = usage_pb2_grpc.UsageServiceStub(channel)
            self._entitlements = decision_pb2_grpc.EntitlementServiceStub(channel)
            while self._permits.take():
                self._dice.choice((self._report, self._report, self._consume, self._misuse, self._roll))()

    def _name(self) -> str:
        self._made += 1
        return f"s{self._number}-{self._made}"

    def _report(self) -> None:
        """Events with ids of their own, and such whose ids are derived."""
        events = [self._event() for _ in range(self._dice.randint(1, 30))]
        for event, result in zip(events, self._reported(events), strict=True):
            assert result.outcome in _TAKEN, result
            identity = (event.tenant_id, result.id)
            assert identity not in self.counted, result
            self.counted[identity] = Fact(event.metric, event.value)

    def _event(self, **more: Any) -> usage_pb2.UsageEvent:
        name = self._name()
        event = usage_pb2.UsageEvent(
            tenant_id=self._dice.choice(TENANTS),
            metric=self._dice.choice(("jobs", "pings", "pages")),
            value=self._dice.randint(1, 9),
            correlation_id=f"work-{name}",
            emitter="load",
        )
        if self._dice.random() < 0.5:
            event.id = name
        else:
            event.occurred_at.CopyFrom(_now())
        event.MergeFrom(usage_pb2.UsageEvent(**more))
        return event

    def _consume(self) -> None:
        """Usage that is asked for first; what is allowed counts."""
        feature = self._dice.choice(("jobs", "pages"))
        request = decision_pb2.CheckEntitlementRequest(
            tenant_id=self._dice.choice(TENANTS),
            feature=feature,
            quantity=self._dice.randint(1, 9),
            request_id=self._name(),
            mode=decision_pb2.CHECK_MODE_CONSUME,
        )
        decision = self._until_answered(
            lambda: self._entitlements.CheckEntitlement(request, timeout=_TIMEOUT, wait_for_ready=True)
        ).decision
        if decision.allowed:
            identity = (request.tenant_id, decision.consumption_id)
            self.counted[identity] = Fact(feature, request.quantity)

    def _roll(self) -> None:
        """Many events that are one record; ten calls have a subject in common."""
        self._made += 1
        tenant, subject = TENANTS[0], f"s{self._number}-{self._made // 10}"
        events = [
            usage_pb2.UsageEvent(tenant_id=tenant, metric="hits", value=2, subject=subject)
            for _ in range(self._dice.randint(1, 20))
        ]
        before = self.unanswered
        for result in self._reported(events):
            assert result.outcome in _TAKEN, result
        rolled = self.rolled.setdefault((tenant, subject), Rolled())
        rolled.add(2 * len(events), 1 + self.unanswered - before)

    def _misuse(self) -> None:
        """Events that may not count, beside one that does, which is not affected.

        A sidecar that has no catalogue yet keeps what is well formed, and ingest refuses it.
        """
        good = self._event()
        bad = [self._event(unit="banana"), self._event(metric="jobs"), self._event()]
        bad[1].ClearField("correlation_id")
        bad[2].value = -1
        for event in bad:
            event.id = self._name()
        unknown = self._event(id=self._name(), metric="mystery")
        again = [self._conflicting()] if self.counted else []
        first, second, *others = self._reported([good, unknown, *bad, *again])
        assert first.outcome in _TAKEN, first
        self.counted[good.tenant_id, first.id] = Fact(good.metric, good.value)
        assert second.outcome in {UsageOutcome.UNKNOWN_METRIC, *_TAKEN}, second
        self.held.add((unknown.tenant_id, unknown.id))
        for result in others[: len(bad)]:
            assert result.outcome in {UsageOutcome.INVALID, *_TAKEN}, result

    def _conflicting(self) -> usage_pb2.UsageEvent:
        """One of before with other content: the first one counts."""
        tenant, id_ = self._dice.choice(list(self.counted))
        fact = self.counted[tenant, id_]
        return usage_pb2.UsageEvent(
            id=id_, tenant_id=tenant, metric=fact.metric, value=fact.value + 1, correlation_id="other"
        )

    def _reported(self, events: list[usage_pb2.UsageEvent]) -> list[usage_pb2.UsageResult]:
        request = usage_pb2.ReportUsageRequest(events=events)
        answer = self._until_answered(
            lambda: self._usage.ReportUsage(request, timeout=_TIMEOUT, wait_for_ready=True)
        )
        return list(answer.results)

    def _until_answered(self, call: Callable[[], _T]) -> _T:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                status: Any = error
                if status.code() not in _AWAY or time.monotonic() > deadline:
                    raise
                self.unanswered += 1
                time.sleep(0.01)


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp
