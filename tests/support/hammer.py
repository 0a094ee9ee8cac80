"""Many callers on one limit, at sidecars and over REST, who count what they were told.

A caller knows of each of its requests one of three things: it was allowed, it was denied, or nobody answered.
What was not answered may have been admitted all the same.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
import httpx

from entitlement_sidecar.domain.decision import Reason
from entitlement_sidecar.domain.usage import consumption_event_id
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc
from support.processes import Planstore, Sidecar
from support.usage_load import Permits
from support.waiting import until

FEATURE = "calls"

_QUICK = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    # Connections of its own, as each application has.
    ("grpc.use_local_subchannel_pool", 1),
)
_TIMEOUT = 20.0
"""Seconds after which a caller gives an answer up."""

PATIENCE = 120.0
"""Seconds in which callers make as many calls as they are given."""

_BREATH = 0.02
"""Seconds between a call that came to nothing and the next one: whoever is denied does not ask at once."""


_PLENTY = 10**9
"""Calls: more than are made."""


class NobodyAnsweredError(Exception):
    """What became of a request is not known."""


class Place(Protocol):
    """Where a caller asks; may be used by many threads."""

    def consume(self, quantity: int, request_id: str) -> Reason | None:
        """None: allowed; else why not. Raises NobodyAnsweredError."""

    def event_id(self, request_id: str) -> str:
        """The id of the usage event of a request."""

    def close(self) -> None:
        """Ends its connections."""


class AtSidecar:
    """Asks a sidecar, also after it was started anew on its port."""

    def __init__(self, tenant: str, beside: Sidecar) -> None:
        self._tenant = tenant
        self._channel = grpc.insecure_channel(f"127.0.0.1:{beside.port}", options=_QUICK)
        self._stub = decision_pb2_grpc.EntitlementServiceStub(self._channel)

    def consume(self, quantity: int, request_id: str) -> Reason | None:
        """One CheckEntitlement that consumes."""
        request = decision_pb2.CheckEntitlementRequest(
            tenant_id=self._tenant,
            feature=FEATURE,
            quantity=quantity,
            request_id=request_id,
            mode=decision_pb2.CHECK_MODE_CONSUME,
        )
        try:
            decision = self._stub.CheckEntitlement(request, timeout=_TIMEOUT).decision
        except grpc.RpcError as error:
            raise NobodyAnsweredError from error
        assert not decision.allowed or decision.consumption_id == self.event_id(request_id), decision
        return None if decision.allowed else Reason(decision.reason)

    def event_id(self, request_id: str) -> str:
        """The id of the usage event of a request."""
        return consumption_event_id(self._tenant, FEATURE, request_id)

    def close(self) -> None:
        """Ends its connection."""
        self._channel.close()


class AtPlanstore:
    """Asks `quotas/check`."""

    def __init__(self, tenant: str, store: Planstore) -> None:
        self._tenant = tenant
        headers = {"authorization": f"Bearer {store.token}"}
        url = f"http://127.0.0.1:{store.http_port}"
        self._client = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT)

    def consume(self, quantity: int, request_id: str) -> Reason | None:
        """One check that records its usage."""
        body = {"feature": FEATURE, "quantity": quantity, "request_id": request_id, "record_usage": True}
        try:
            path = f"/api/billing/organizations/{self._tenant}/quotas/check"
            answer = self._client.post(path, json={**body, "correlation_id": request_id})
        except httpx.TransportError as error:
            raise NobodyAnsweredError from error
        if answer.is_server_error:
            raise NobodyAnsweredError(answer.text)
        assert answer.status_code == httpx.codes.OK, answer.text
        decision: dict[str, Any] = answer.json()
        return None if decision["allowed"] else Reason[decision["reason"]]

    def event_id(self, request_id: str) -> str:
        """The id of the usage event of a request."""
        return consumption_event_id(self._tenant, FEATURE, request_id)

    def close(self) -> None:
        """Ends its connections."""
        self._client.close()


class Caller:
    """Asks for more and less, one call after the other, until it hears that not even one is left.

    `allowed` and `unanswered` are quantities by the id of their usage event. One that asks `again` repeats
    what nobody could say, until somebody does: it may have been admitted.
    """

    def __init__(self, name: str, place: Place, permits: Permits, *, again: bool) -> None:
        self.allowed: dict[str, int] = {}
        self.unanswered: dict[str, int] = {}
        self._name, self._place, self._permits = name, place, permits
        self._dice = random.Random(name)  # noqa: S311 - a test's dice
        self._again = again
        self._made = 0
        self._open: tuple[str, int] | None = None

    def run(self, most: int, *, over: threading.Event) -> None:
        """Works until there are no permits, or until the limit is spent once it is `over`.

        Args:
            most: The largest quantity of a call. After a refusal it asks for less.
            over: Set when a refusal of one is the end.
        """
        at_most = most
        while self._permits.take():
            quantity = self._open[1] if self._open else self._dice.randint(1, at_most)
            refused = self.ask(quantity)
            if refused is Reason.QUOTA_EXCEEDED and quantity == 1 and over.is_set():
                return
            at_most = most if refused is None else max(1, quantity // 2)
            if refused is not None:
                time.sleep(_BREATH)

    def ask(self, quantity: int) -> Reason | None:
        """One call, of this or of what is asked again, and what is known of it then; None: it was allowed."""
        if self._open is None:
            self._made += 1
            self._open = (f"{self._name}-{self._made}", quantity)
        request_id, quantity = self._open
        refused = self._answer(request_id, quantity)
        if refused is not Reason.UNDETERMINED or not self._again:
            self._open = None
        return refused

    def _answer(self, request_id: str, quantity: int) -> Reason | None:
        event_id = self._place.event_id(request_id)
        try:
            refused = self._place.consume(quantity, request_id)
        except NobodyAnsweredError:
            self.unanswered[event_id] = quantity
            return Reason.UNDETERMINED
        if refused is None:
            self.allowed[event_id] = quantity
            self.unanswered.pop(event_id, None)
        return refused


class Hammer:
    """Callers at places, several at each, all at once; whether they ask `again`, see there."""

    def __init__(self, places: Sequence[Place], each: int, seed: int, *, again: bool = False) -> None:
        self._each = each
        self._permits = Permits()
        self._over = threading.Event()
        self._working: list[Future[None]] = []
        self.callers = [
            Caller(f"h{seed}p{place}c{number}", at, self._permits, again=again)
            for place, at in enumerate(places)
            for number in range(each)
        ]

    @contextmanager
    def running(self, most: int, *, to_the_end: bool = True) -> Iterator[None]:
        """They call while the block runs; when it ends they go on until nothing is left, or end at once.

        Args:
            most: The largest quantity of a call.
            to_the_end: They go on.
        """
        with ThreadPoolExecutor(len(self.callers)) as threads:
            self._working = [threads.submit(one.run, most, over=self._over) for one in self.callers]
            try:
                yield
                self._over.set()
                if to_the_end:
                    self._permits.grant(_PLENTY)
                else:
                    self._permits.end(at_once=True)
                for one in self._working:
                    one.result()
            finally:
                self._over.set()
                self._permits.end(at_once=True)

    def calls(self, count: int) -> None:
        """Lets so many calls be made, and waits until they are under way; raises what a caller raised."""
        at = self._permits.made + count
        self._permits.grant(count)

        def made() -> bool:
            for one in self._working:
                if one.done():
                    one.result()
            return self._permits.made >= at

        until(made, f"{count} calls to be made", PATIENCE)

    def sweep(self) -> int:
        """One more call for one token at each place; all that callers were allowed so far."""
        asking = self.callers[:: self._each]
        with ThreadPoolExecutor(len(asking)) as threads:
            list(threads.map(lambda caller: caller.ask(1), asking))
        return self.admitted

    @property
    def allowed(self) -> dict[str, int]:
        """What all of them were allowed."""
        return {id_: quantity for caller in self.callers for id_, quantity in caller.allowed.items()}

    @property
    def unanswered(self) -> dict[str, int]:
        """Of what nobody knows what became of it."""
        return {id_: quantity for caller in self.callers for id_, quantity in caller.unanswered.items()}

    @property
    def admitted(self) -> int:
        """The sum of what they were allowed."""
        return sum(self.allowed.values())


@contextmanager
def places(
    tenant: str, sidecars: Sequence[Sidecar], stores: Sequence[Planstore] = ()
) -> Iterator[list[Place]]:
    """Where to call for a tenant: at each of the sidecars, and over REST."""
    opened: list[Place] = [AtSidecar(tenant, one) for one in sidecars]
    opened += [AtPlanstore(tenant, one) for one in stores]
    try:
        yield opened
    finally:
        for one in opened:
            one.close()


class Takers:
    """Callers that take one token after the other until they are refused one, some at a pace.

    `had` is what each was allowed, `left` what of the limit nobody had used when it was refused.
    """

    def __init__(self, limit: int) -> None:
        self.had: list[int] = []
        self.left: list[int] = []
        self._rest = limit
        self._lock = threading.Lock()

    def take(self, callers: Sequence[tuple[Place, float]]) -> None:
        """All at once, each at a place, with so many seconds between two tokens."""
        with ThreadPoolExecutor(len(callers)) as threads:
            list(threads.map(self._take, range(len(callers)), *zip(*callers, strict=True)))

    def _take(self, number: int, place: Place, pace: float) -> None:
        had = 0
        while (refused := place.consume(1, f"t{number}-{had}")) is None:
            had += 1
            with self._lock:
                self._rest -= 1
            time.sleep(pace)
        assert refused is Reason.QUOTA_EXCEEDED, refused
        with self._lock:
            self.had.append(had)
            self.left.append(self._rest)
