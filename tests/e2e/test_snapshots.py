"""Keys that rotate and bulk work, felt by nobody: real processes, real Redis."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from entitlement_sidecar.domain.decision import Degradation, Reason
from support.processes import ENTITLEMENTS, Planstore, Sidecar, clean_environment
from support.waiting import until

TENANTS = [f"tenant-{number}" for number in range(20)]


def command(*arguments: str, code: int = 0) -> str:
    """What a command prints; its exit code is as expected."""
    done = subprocess.run(
        [*ENTITLEMENTS, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def rotate(store: Planstore, step: str, code: int = 0) -> str:
    """One step of a rotation."""
    return command("planstore", "rotate-key", step, "--state-dir", str(store.state), code=code)


def of(store: Planstore) -> list[str]:
    """The options that lead a command to a plan store."""
    url = f"http://127.0.0.1:{store.http_port}"
    return ["--planstore", url, "--token-file", str(store.state / "token")]


class Load:
    """Checks of every tenant, again and again, and what was answered."""

    def __init__(self, beside: Sidecar) -> None:
        self._beside = beside
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]
        self.answered: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for tenant in TENANTS:
                try:
                    decision = self._beside.check(tenant, "sso")
                except grpc.RpcError as error:
                    self.failures.append(str(error))
                    continue
                told = Reason(decision.reason).name, Degradation(decision.degradation).name
                self.answered[told] += 1


def fresh(beside: Sidecar) -> bool:
    return all(beside.check(tenant, "sso").degradation == Degradation.NONE for tenant in TENANTS)


def versions(store: Planstore) -> dict[str, tuple[int, str]]:
    """Version and key of each tenant's snapshot."""
    shown = {
        tenant: store.rest("GET", f"/api/billing/organizations/{tenant}/snapshot").json()
        for tenant in TENANTS
    }
    return {tenant: (one["version"], one["key_id"]) for tenant, one in shown.items()}


def test_a_rotation_is_felt_by_nobody_who_has_both_keys(
    redis_db: str,
    planstore: Callable[..., Planstore],
    sidecar: Callable[..., Sidecar],
    tmp_path: Path,
) -> None:
    """Prepare, switch, retire: a second plan store bridges restarts, nothing is refused or undetermined.

    Whether an answer is STALE for a moment is up to how busy the machine is; what a rotation could do to make
    it so, a refusal or a feed that is lost, does not happen once.

    A sidecar that knows the old key alone refuses the new one's snapshots, counts them, and goes on with what
    it holds; it says that it is stale.
    """
    store = planstore(redis=redis_db)
    for tenant in TENANTS:
        store.subscribe(tenant, "large")
    trusted = store.state / "trusted.keys"
    (tmp_path / "old.keys").write_text(trusted.read_text())
    second = Planstore(store.state, redis=redis_db)

    assert "run the step `prepare` first" in rotate(store, "switch", code=2)
    rotate(store, "prepare")
    assert len(trusted.read_text().splitlines()) == 2
    (tmp_path / "both.keys").write_text(trusted.read_text())
    beside = sidecar(store, "--redis", redis_db, "--trusted-keys", str(tmp_path / "both.keys"), name="both")
    behind = sidecar(store, "--redis", redis_db, "--trusted-keys", str(tmp_path / "old.keys"), name="old")
    until(lambda: fresh(beside) and fresh(behind), "everyone to be held and confirmed")
    old = versions(store)[TENANTS[0]][1]

    lost = beside.metric("entitlement_feed_interruptions_total")

    try:
        with Load(beside) as load:
            rotate(store, "switch")
            second.start(migrated=True)
            new = second.rest("GET", f"/api/billing/organizations/{TENANTS[0]}/snapshot")
            assert new.is_success
            store.stop()
            until(lambda: set(versions(second).values()) != {(1, old)}, "snapshots to be signed again")
            until(lambda: old not in {key for _, key in versions(second).values()}, "all to be")
            until(lambda: beside.check(TENANTS[-1], "sso").snapshot_version == 2, "them to arrive")
            until(lambda: sum(load.answered.values()) > 1000, "some more checks")
        assert load.failures == []
        assert set(load.answered) <= {("ENABLED", "NONE"), ("ENABLED", "STALE")}
        assert beside.metric("entitlement_snapshots_refused_total") == 0
        assert beside.metric("entitlement_feed_interruptions_total") == lost
        until(lambda: fresh(beside), "everything to be confirmed by the new key")

        until(lambda: behind.metric("entitlement_snapshots_refused_total") > 0, "the new key to be refused")
        held = behind.check(TENANTS[0], "sso")
        assert (held.allowed, held.snapshot_version) == (True, 1)
        until(lambda: behind.check(TENANTS[0], "sso").degradation == Degradation.STALE, "STALE to be said")

        rotate(store, "retire")
        [left] = trusted.read_text().splitlines()
        assert old not in left
        command("snapshots", "verify", *of(second))
    finally:
        second.kill()


def test_what_another_key_signed_is_not_retired(planstore: Callable[..., Planstore]) -> None:
    """Retiring is refused while the old key's signatures are in use, and says what to do.

    What it has signed of the audit log is good for ever.
    """
    store = planstore()
    store.subscribe("acme", "large")
    store.stop()
    rotate(store, "prepare")
    assert "run the step `switch` first" in rotate(store, "retire", code=2)
    rotate(store, "switch")
    assert "1 snapshot is signed by another key" in rotate(store, "retire", code=2)
    store.start(migrated=True)
    until(
        lambda: "trusts" in _attempt(store),
        "the key to be retired once all is signed again",
    )
    assert len((store.state / "trusted.keys").read_text().splitlines()) == 1
    store.stop()
    store.start(migrated=True)
    command("audit", "verify", *of(store))


def _attempt(store: Planstore) -> str:
    done = subprocess.run(
        [*ENTITLEMENTS, "planstore", "rotate-key", "retire", "--state-dir", str(store.state)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    return done.stdout


def test_commands_show_verify_and_republish(
    redis_db: str, planstore: Callable[..., Planstore], redis_client: Any
) -> None:
    """What the REST answers, for people and for programs; a fault is an exit code."""
    store = planstore(redis=redis_db)
    for tenant in TENANTS:
        store.subscribe(tenant, "large")
    shown = command("snapshots", "show", TENANTS[0], *of(store))
    assert "large@1" in shown
    assert "100 per month" in shown
    parsed = json.loads(command("snapshots", "show", TENANTS[0], *of(store), "-o", "json"))
    assert parsed["subscriptions"][0]["phases"][0]["state"] == "active"

    one = json.loads(command("snapshots", "republish", TENANTS[0], *of(store), "-o", "json"))
    assert one["snapshot_version"] == 2
    assert "20 tenants republished" in command("snapshots", "republish", "--all", *of(store))
    assert "expected either" in command("snapshots", "republish", *of(store), code=2)

    def verified() -> bool:
        return "waiting" not in command("snapshots", "verify", *of(store))

    until(verified, "all to be published")
    redis_client.delete("ent:{tenant-3}:snapshot")
    told = command("snapshots", "verify", *of(store), "-o", "csv", code=1)
    [row] = list(csv.DictReader(io.StringIO("\n".join(told.splitlines()[:-1]))))
    assert (row["tenant_id"], row["where"], row["cause"]) == ("tenant-3", "redis", "missing")
    command("snapshots", "verify", "tenant-4", *of(store))
    command("snapshots", "republish", "tenant-3", *of(store))
    until(lambda: redis_client.exists("ent:{tenant-3}:snapshot"), "it to be there again")


@pytest.fixture
def redis_client(redis_db: str) -> Any:
    """A client of the shared Redis."""
    import redis  # noqa: PLC0415 - used here alone

    with redis.Redis.from_url(redis_db) as client:
        yield client
