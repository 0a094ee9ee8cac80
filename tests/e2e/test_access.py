"""Tokens, roles and tenants with the real processes, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import select

from entitlement_sidecar.planstore.access import PERMISSIONS, Permission, Role
from entitlement_sidecar.planstore.db import AuditRow, Database, create_engine_for
from entitlement_sidecar.wire.v1 import quota_pb2, quota_pb2_grpc, snapshot_pb2, snapshot_pb2_grpc
from support.processes import Planstore, Sidecar
from support.refusals import entitlements
from support.waiting import until

TOKENS = "/api/billing/tokens"
ACME = "/api/billing/organizations/acme"
PLANS = "/api/billing/plans"


class Site:
    """A plan store, and calls to it with one token or another."""

    def __init__(self, store: Planstore, database: str) -> None:
        self.store = store
        self.database = database

    def make(self, name: str, role: str, **more: Any) -> dict[str, Any]:
        answer = self.store.rest("POST", TOKENS, json={"name": name, "role": role, **more})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def status(self, secret: str, method: str, path: str, **more: Any) -> int:
        headers = {"authorization": f"Bearer {secret}", **more.pop("headers", {})}
        return int(self.store.rest(method, path, headers=headers, **more).status_code)

    def rpc(self, secret: str, call: Callable[[grpc.Channel, Any], Any]) -> grpc.StatusCode:
        with grpc.insecure_channel(f"127.0.0.1:{self.store.grpc_port}") as channel:
            try:
                call(channel, (("authorization", f"Bearer {secret}"),))
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
        return grpc.StatusCode.OK

    def audited(self, action: str) -> list[AuditRow]:
        database = Database(create_engine_for(self.database))
        try:
            with database.reading() as session:
                return list(session.scalars(select(AuditRow).where(AuditRow.action == action)))
        finally:
            database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, planstore: Callable[..., Planstore]) -> Site:
    """A plan store on either database, with a tenant."""
    url = request.getfixturevalue("postgres_dsn") if request.param == "postgresql" else ""
    store = planstore(database=url)
    store.subscribe("acme", "large")
    store.subscribe("globex", "large")
    return Site(store, url or f"sqlite:///{store.state / 'planstore.db'}")


def consume(channel: grpc.Channel, metadata: Any, tenant: str = "acme") -> None:
    request = quota_pb2.ConsumeRequest(tenant_id=tenant, feature="calls", quantity=1, request_id="r-1")
    quota_pb2_grpc.QuotaServiceStub(channel).Consume(request, metadata=metadata, timeout=10)


def snapshot(channel: grpc.Channel, metadata: Any, tenant: str = "acme") -> None:
    request = snapshot_pb2.GetSnapshotRequest(tenant_id=tenant)
    snapshot_pb2_grpc.SnapshotServiceStub(channel).GetSnapshot(request, metadata=metadata, timeout=10)


def watch(channel: grpc.Channel, metadata: Any) -> None:
    stub = snapshot_pb2_grpc.SnapshotServiceStub(channel)
    next(stub.WatchSnapshots(snapshot_pb2.WatchSnapshotsRequest(), metadata=metadata, timeout=10))


def test_each_role_tries_each_kind_of_call(site: Site) -> None:
    """Reading, changing, configuring, managing tokens, consuming and the feed: as the table says."""
    calls = (
        (Permission.READ, "GET", f"{ACME}/subscription", {}),
        (Permission.CHANGE, "POST", f"{ACME}/subscription", {"json": {"plan": "large"}}),
        (Permission.CONFIGURE, "POST", "/api/billing/catalogue", {"content": b"[", "headers": _YAML}),
        (Permission.ADMINISTER, "GET", TOKENS, {}),
    )
    for role in Role:
        secret = site.make(f"the-{role}", role)["secret"]
        for permission, method, path, given in calls:
            refused = site.status(secret, method, path, **given) == 403
            assert refused is (permission not in PERMISSIONS[role]), (role, method, path)
        for permission, call in ((Permission.CONSUME, consume), (Permission.FEED, snapshot)):
            able = permission in PERMISSIONS[role]
            wanted = grpc.StatusCode.OK if able else grpc.StatusCode.PERMISSION_DENIED
            assert site.rpc(secret, call) is wanted, (role, call)

    entries = site.audited("access.refused")
    assert {(entry.actor, entry.role) for entry in entries} == {("the-ai-agent", "ai-agent")}
    assert len(entries) == 5


_YAML = {"content-type": "application/yaml"}


def test_tokens_end(site: Site) -> None:
    """One that has expired, and one that was revoked, are refused alike; who revoked it is in the log."""
    short = site.make("short", "viewer", expires_in=1)["secret"]
    revoked = site.make("revoked", "viewer")
    assert site.status(revoked["secret"], "GET", PLANS) == 200

    answer = site.store.rest("POST", f"{TOKENS}/{revoked['id']}/revoke", headers={"x-reason": "left"})

    assert answer.json()["state"] == "revoked"
    assert site.status(revoked["secret"], "GET", PLANS) == 401
    until(lambda: site.status(short, "GET", PLANS) in {401, 429}, "the token to expire")
    (entry,) = site.audited("token.revoked")
    assert (entry.actor, entry.role, entry.reason) == ("bootstrap", "billing-admin", "left")


def test_a_token_of_one_tenant(site: Site) -> None:
    """It reaches its tenant over REST and gRPC, and no other."""
    rest = site.make("acme-admin", "billing-admin", tenants=["acme"])["secret"]
    beside = site.make("acme-sidecar", "sidecar", tenants=["acme"])["secret"]

    assert site.status(rest, "GET", f"{ACME}/usage") == 200
    assert site.status(rest, "GET", "/api/billing/organizations/globex/usage") == 403
    assert site.status(rest, "GET", TOKENS) == 403
    assert site.rpc(beside, snapshot) is grpc.StatusCode.OK
    denied = grpc.StatusCode.PERMISSION_DENIED
    assert site.rpc(beside, lambda *given: snapshot(*given, "globex")) is denied
    assert site.rpc(beside, lambda *given: consume(*given, "globex")) is denied
    assert site.rpc(beside, watch) is denied


def test_who_guesses_is_slowed_down(site: Site) -> None:
    """429 with when to try again, while a good token is served, over REST and gRPC."""
    codes = [site.status("ent_wrong", "GET", PLANS) for _ in range(30)]
    assert codes[:10] == [401] * 10
    assert 429 in codes
    throttled = site.rpc("ent_wrong", consume)
    assert throttled in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED}
    assert site.status(site.store.token, "GET", PLANS) == 200
    assert site.rpc(site.store.token, consume) is grpc.StatusCode.OK
    metrics = site.store.rest("GET", "/metrics").text
    assert 'entitlement_authentication_failures_total{cause="throttled"}' in metrics


def test_the_first_token_stays_revoked_over_restarts(site: Site) -> None:
    """Another administrator revokes it; the file that is still there does not bring it back."""
    other = site.make("ada", "billing-admin")["secret"]
    headers = {"authorization": f"Bearer {other}"}
    (first,) = [
        token
        for token in site.store.rest("GET", TOKENS, headers=headers).json()["tokens"]
        if token["name"] == "bootstrap"
    ]
    site.store.rest("POST", f"{TOKENS}/{first['id']}/revoke", headers=headers)

    site.store.stop()
    site.store.start()

    assert site.status(site.store.token, "GET", PLANS) == 401
    assert site.status(other, "GET", PLANS) == 200
    assert len(site.audited("token.created")) == 2


def test_a_sidecars_token_is_changed_without_a_loss(
    site: Site, tmp_path: Path, ending: ExitStack, sidecar: Callable[..., Sidecar]
) -> None:
    """As docs/access.md says: the next one beside the old one, restart, revoke; usage all arrives once."""
    del sidecar
    file = tmp_path / "sidecar.token"
    old = site.make("sidecar-1", "sidecar")
    file.write_text(old["secret"])
    upstream = ("--planstore", f"127.0.0.1:{site.store.grpc_port}", "--token-file", str(file))
    beside = Sidecar(tmp_path / "beside", *upstream)
    ending.callback(beside.kill)
    beside.start()

    def consumed(number: int) -> bool:
        return bool(beside.consume("acme", "calls", request_id=f"c{number}", correlation_id="work").allowed)

    assert all(until(lambda n=n: consumed(n), "an answer") for n in range(3))
    file.write_text(site.make("sidecar-2", "sidecar")["secret"])
    site.store.rest("POST", f"{TOKENS}/{old['id']}/revoke")
    beside.stop()
    beside.start()
    assert all(until(lambda n=n: consumed(n), "an answer") for n in range(3, 6))

    def arrived() -> bool:
        usage = site.store.usage("acme")["usage"]
        return sum(one["event_count"] for one in usage if one["metric"] == "calls") == 6

    until(arrived, "all usage to arrive")


def test_the_commands(site: Site, tmp_path: Path) -> None:
    """A new secret is written where only its owner reads it, lists do not show it, revoking ends it."""
    secret = tmp_path / "ada.token"
    at = (
        *("--planstore", f"http://127.0.0.1:{site.store.http_port}"),
        *("--token-file", str(site.store.state / "token"), "-o", "json"),
    )

    made = entitlements(
        *("tokens", "create", "ada", "--role", "operator", "--tenant", "acme", "--expires-in", "90d"),
        *("--to", str(secret), *at),
    )
    listed = entitlements("tokens", "list", *at)
    token = json.loads(made.out)

    assert made.code == listed.code == 0, made.err + listed.err
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text().strip() not in made.out + made.err + listed.out
    assert [one["name"] for one in json.loads(listed.out)] == ["bootstrap", "ada"]
    mine = (*at[:2], "--token-file", str(secret))
    assert entitlements("subscriptions", "show", "acme", *mine).code == 0
    refused = entitlements("tokens", "list", *mine)
    assert (refused.code, "operator" in refused.err) == (2, True)
    again = entitlements("tokens", "create", "eve", "--role", "viewer", "--to", str(secret), *at)
    assert (again.code, "is there already" in again.err) == (2, True)
    taken = entitlements("tokens", "create", "ada", "--role", "viewer", "--to", str(tmp_path / "x"), *at)
    assert (taken.code, (tmp_path / "x").exists()) == (2, False)
    assert entitlements("tokens", "revoke", token["id"], *at).code == 0
    assert entitlements("subscriptions", "show", "acme", *mine).code == 2
    everybody = json.loads(entitlements("tokens", "list", "--ended", *at).out)
    assert [(one["name"], one["state"]) for one in everybody] == [("bootstrap", "active"), ("ada", "revoked")]
