"""What was true when, what sidecars said meanwhile, and who changes and breaks things all the time."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import grpc
import httpx

from entitlement_sidecar.domain.decision import Degradation, Reason
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc
from support.processes import Planstore, Sidecar

PLANS = ("small", "large", "team")

_CHANNEL_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))


class Background:
    """Does one thing again and again on a thread of its own. What fails there, fails the test at its end."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self.stopping.is_set():
                self.step()
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            self._failure = error

    def step(self) -> None:
        """Once."""
        raise NotImplementedError


class Change(NamedTuple):
    """A version that was committed at some instant between these two."""

    sent: datetime
    answered: datetime
    version: int


class Changes(Background):
    """Changes tenants at either plan store, and remembers which versions were answered, and when."""

    def __init__(self, stores: Sequence[Planstore], tenants: Sequence[str], seed: str) -> None:
        super().__init__()
        self._stores = stores
        self._tenants = tenants
        self._dice = random.Random(seed)  # noqa: S311 - a test's dice
        self.made: dict[str, list[Change]] = defaultdict(list)

    def step(self) -> None:
        """One change; where nobody answers, it is not known whether it was made, and nothing is noted."""
        tenant = self._dice.choice(self._tenants)
        self.change(tenant, self._dice.choice(PLANS), self._dice.choice(self._stores))
        self.stopping.wait(self._dice.uniform(0, 0.1))

    def change(self, tenant: str, plan: str, store: Planstore) -> None:
        """Changes a tenant's plan."""
        path, sent = f"/api/billing/organizations/{tenant}/subscription", datetime.now(UTC)
        try:
            answer = store.rest("POST", path, json={"plan": plan})
        except httpx.TransportError:
            return
        if answer.is_success:
            version = answer.json()["snapshot_version"]
            self.made[tenant].append(Change(sent, datetime.now(UTC), version))
        else:
            assert answer.status_code in {409, 503}, answer.text

    def newer_before(self, tenant: str, version: int, instant: datetime) -> Change | None:
        """A version newer than this one that was answered before an instant."""
        return next((c for c in self.made[tenant] if c.version > version and c.answered < instant), None)


class Answers(Background):
    """Asks one sidecar for each tenant in turn, and keeps the latest `as_of` that it claims of a version."""

    def __init__(self, beside: Sidecar, tenants: Sequence[str]) -> None:
        super().__init__()
        # A channel of its own: the sidecar comes and goes.
        self._channel = grpc.insecure_channel(f"127.0.0.1:{beside.port}", options=_CHANNEL_OPTIONS)
        self._stub = decision_pb2_grpc.EntitlementServiceStub(self._channel)
        self._tenants = tenants
        self.claimed: dict[tuple[str, int], datetime] = {}
        self.degradations: Counter[Degradation] = Counter()
        self.wrong: list[str] = []

    def __exit__(self, *more: object) -> None:
        try:
            super().__exit__(*more)
        finally:
            self._channel.close()

    def step(self) -> None:
        """One round."""
        for tenant in self._tenants:
            request = decision_pb2.CheckEntitlementRequest(tenant_id=tenant, feature="sso")
            try:
                self._note(tenant, self._stub.CheckEntitlement(request, timeout=10).decision)
            except grpc.RpcError as error:
                # Nobody is there while it starts again; anything else would be a fault of its own.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self.wrong.append(f"{tenant}: {error}")
                self.stopping.wait(0.1)
            self.stopping.wait(0.005)

    def _note(self, tenant: str, decision: decision_pb2.Decision) -> None:
        self.degradations[Degradation(decision.degradation)] += 1
        if decision.reason == Reason.TENANT_UNKNOWN:
            self.wrong.append(f"{tenant} is known since before this sidecar began: {decision}")
        if decision.HasField("as_of") and decision.snapshot_version:
            key, as_of = (tenant, decision.snapshot_version), decision.as_of.ToDatetime(UTC)
            self.claimed[key] = max(as_of, self.claimed.get(key, as_of))


class Faults:
    """Breaks one thing after the other, each for a while, in an order that the seed gives."""

    def __init__(self, kinds: dict[str, tuple[Callable[[], Any], Callable[[], Any]]], seed: str) -> None:
        """`kinds` are how to break something and how to put it right, by name."""
        self._kinds = kinds
        self._dice = random.Random(seed)  # noqa: S311 - a test's dice
        self.done: list[str] = []

    def go_on_for(self, seconds: float) -> None:
        """Until then; each kind has had its turn before one has its second."""
        end, left = time.monotonic() + seconds, list[str]()
        while time.monotonic() < end:
            left = left or self._dice.sample(sorted(self._kinds), len(self._kinds))
            name = left.pop()
            self.done.append(name)
            break_it, mend_it = self._kinds[name]
            break_it()
            time.sleep(self._dice.uniform(0.2, 4.0))
            mend_it()
            time.sleep(self._dice.uniform(0, 1.5))
