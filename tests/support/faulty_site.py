"""A plan store, a Redis and a sidecar, and between each two of them a proxy that breaks on demand."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import redis
import uuid6

from entitlement_sidecar.domain.decision import Degradation, Reason, Source
from entitlement_sidecar.sidecar.snapshots.freshness import STALE_AFTER
from entitlement_sidecar.testing.fault_proxy import FaultProxy
from entitlement_sidecar.wire.redis_keys import snapshot_key
from support.processes import Planstore, Sidecar
from support.redis_server import RedisServer
from support.waiting import until

PATIENCE = 60.0
"""Seconds that something may take to come true before it counts as never."""


class Told(NamedTuple):
    """What a decision says of itself, in words that a failed assertion shows."""

    allowed: bool
    reason: Reason
    degradation: Degradation
    source: Source


def told(beside: Sidecar, tenant: str, feature: str = "sso", **more: Any) -> Told:
    """One check, and what was answered."""
    decision = beside.check(tenant, feature, **more)
    return Told(
        decision.allowed, Reason(decision.reason), Degradation(decision.degradation), Source(decision.source)
    )


CURRENT = Told(True, Reason.ENABLED, Degradation.NONE, Source.MEMORY)
"""The plan store's own answer, from memory."""

AGED = CURRENT._replace(degradation=Degradation.STALE)
"""The same, no longer confirmed."""

OPEN = Told(True, Reason.UNDETERMINED, Degradation.FAIL_OPEN, Source.FALLBACK)
"""What nobody can know, of a feature that is open then."""

CLOSED = Told(False, Reason.UNDETERMINED, Degradation.FAIL_CLOSED, Source.FALLBACK)
"""What nobody can know, of a feature that is closed then."""


def await_told(beside: Sidecar, tenant: str, expected: Told, feature: str = "sso") -> None:
    """Waits until a check is answered so; every answer until then allows, if the last one does."""

    def as_expected() -> bool:
        now = told(beside, tenant, feature)
        assert now.allowed or not expected.allowed, now
        return now == expected

    until(as_expected, f"{tenant} to be told {expected}", PATIENCE)


def first_told(beside: Sidecar, tenant: str) -> Told:
    """What is told of a tenant once its snapshot was had: a busy machine may take two tries."""
    return until(
        lambda: now if (now := told(beside, tenant)).source is not Source.FALLBACK else None,
        f"{tenant} to be had from anywhere",
        PATIENCE,
    )


def await_confirmed(beside: Sidecar, tenant: str) -> None:
    """Waits until answers rest on what was confirmed later than now, by some seconds."""
    now = datetime.now(UTC) + timedelta(seconds=STALE_AFTER)
    until(
        lambda: beside.check(tenant, "sso").as_of.ToDatetime(UTC) > now,
        f"what is held of {tenant} to be confirmed",
        PATIENCE,
    )


def is_answering(beside: Sidecar, tenant: str) -> bool:
    """Whether checks of a tenant are answered at all."""
    try:
        beside.check(tenant, "sso")
    except grpc.RpcError:
        return False
    return True


class FaultySite:
    """One of each. The sidecar knows the two proxies alone; the plan store publishes through a third."""

    def __init__(self, folder: Path, catalogue: Path, ending: ExitStack) -> None:
        self._folder = folder
        self._ending = ending
        (folder / "redis").mkdir()
        self.redis = RedisServer(folder / "redis")
        self.redis.start()
        ending.callback(self.redis.stop)
        self.publishing = self._proxy(self.redis.port)
        self.to_redis = self._proxy(self.redis.port)
        self.store = Planstore(folder / "planstore", redis=_url(self.publishing))
        ending.callback(self.store.kill)
        self.store.start()
        self.store.apply(catalogue)
        self.to_store = self._proxy(self.store.grpc_port)
        self.beside = self.sidecar("beside")

    def _proxy(self, port: int) -> FaultProxy:
        proxy = FaultProxy(port)
        self._ending.callback(proxy.close)
        return proxy.start()

    def sidecar(self, name: str, *options: str, env: dict[str, str] | None = None) -> Sidecar:
        """A sidecar that is up, of this plan store and Redis."""
        upstream = ("--planstore", f"127.0.0.1:{self.to_store.port}", "--redis", _url(self.to_redis))
        token = ("--token-file", str(self.store.state / "token"))
        started = Sidecar(self._folder / name, *upstream, *token, *options, env=env)
        self._ending.callback(started.kill)
        return started.start()

    def heal(self) -> None:
        """Everything runs and is reached, and the sidecar is current."""
        for proxy in (self.publishing, self.to_redis, self.to_store):
            proxy.heal()
        if not self.redis.running:
            self.redis.start()
        if self.store.process is None:
            self.store.start(migrated=True)
        if self.beside.process is None:
            self.beside.start()
        self.held("canary")

    def subscribed(self, plan: str = "large") -> str:
        """A tenant that nobody has asked for yet, once Redis has it."""
        tenant = f"tenant-{uuid6.uuid7()}"
        self.store.subscribe(tenant, plan)
        self.await_in_redis(tenant)
        return tenant

    def await_in_redis(self, tenant: str, version: int = 1) -> None:
        """Waits until a version of a tenant is published."""
        key = snapshot_key(tenant)
        with redis.Redis(port=self.redis.port) as client:
            until(
                lambda: int(client.hget(key, "version") or 0) >= version,
                f"{tenant} in Redis",
                PATIENCE,
            )

    def held(self, tenant: str = "") -> str:
        """A tenant that the sidecar holds, and that is current."""
        if tenant:
            self.store.subscribe(tenant, "large")
        tenant = tenant or self.subscribed()
        await_told(self.beside, tenant, CURRENT)
        return tenant


def _url(proxy: FaultProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"
