"""Callers of a real sidecar: every RPC asks who calls, and answers only for the caller's tenants."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from entitlement_sidecar.domain.decision import Reason
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc, usage_pb2, usage_pb2_grpc
from support.certificates import LOCAL, Authority
from support.failures import failure
from support.processes import Sidecar
from support.waiting import until

CATALOGUE = (Path(__file__).parent / "tenants.yaml").read_text("utf-8")
Check = decision_pb2.CheckEntitlementRequest
CONSUME = decision_pb2.CHECK_MODE_CONSUME
TOKEN = "secret"
DENIED = "caller 'checkout' may not ask about tenant 'theirs'"


def callers(tenants: str = "[mine]") -> str:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    return f"callers:\n  - {{name: checkout, token_sha256: '{digest}', tenants: {tenants}}}\n"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Sidecar]]:
    """A sidecar of each front with one caller, which may ask about one of two tenants; started once."""
    folder = tmp_path_factory.mktemp("callers")
    (folder / "tenants.yaml").write_text(CATALOGUE + "  mine: {plan: pro}\n  theirs: {plan: pro}\n")
    (folder / "callers.yaml").write_text(callers())
    options = ("--snapshot-file", str(folder / "tenants.yaml"), "--callers", str(folder / "callers.yaml"))
    running: dict[str, Sidecar] = {}

    def start(front: str) -> Sidecar:
        if front not in running:
            running[front] = Sidecar(folder / front, *options, front=front).start()
        return running[front]

    yield start
    for sidecar in running.values():
        sidecar.kill()


@pytest.fixture(params=["fast", "aio"])
def beside(request: pytest.FixtureRequest, known: Callable[[str], Sidecar]) -> Sidecar:
    """That sidecar, on each front."""
    return known(request.param)


class Caller:
    """Calls with a token, or without one."""

    def __init__(self, channel: grpc.Channel, token: str = TOKEN) -> None:
        self._shown = [("authorization", f"Bearer {token}")] if token else None
        self._entitlements = decision_pb2_grpc.EntitlementServiceStub(channel)
        self._usage = usage_pb2_grpc.UsageServiceStub(channel)

    def check(self, tenant: str, feature: str = "sso", **more: Any) -> Any:
        request = Check(tenant_id=tenant, feature=feature, **more)
        return self._entitlements.CheckEntitlement(request, metadata=self._shown, timeout=20).decision

    def batch(self, checks: Sequence[Check], *, atomic: bool = False) -> Any:
        request = decision_pb2.BatchCheckEntitlementsRequest(checks=checks, atomic=atomic)
        answer = self._entitlements.BatchCheckEntitlements(request, metadata=self._shown, timeout=20)
        return list(answer.results)

    def list(self, tenant: str) -> Any:
        request = decision_pb2.ListEntitlementsRequest(tenant_id=tenant)
        return self._entitlements.ListEntitlements(request, metadata=self._shown, timeout=20)

    def explain(self, tenant: str) -> Any:
        request = decision_pb2.ExplainEntitlementRequest(check=Check(tenant_id=tenant, feature="sso"))
        return self._entitlements.ExplainEntitlement(request, metadata=self._shown, timeout=20)

    def watch(self, tenant: str) -> Any:
        request = decision_pb2.WatchEntitlementsRequest(tenant_id=tenant)
        return self._entitlements.WatchEntitlements(request, metadata=self._shown, timeout=60)

    def report(self, *tenants: str) -> Any:
        events = [
            usage_pb2.UsageEvent(tenant_id=tenant, metric="exports", value=1, id=f"{tenant}-{number}")
            for number, tenant in enumerate(tenants)
        ]
        request = usage_pb2.ReportUsageRequest(events=events)
        return list(self._usage.ReportUsage(request, metadata=self._shown, timeout=20).results)

    def report_as(self, *emitters: str) -> Any:
        events = [
            usage_pb2.UsageEvent(tenant_id="mine", metric="exports", value=1, emitter=emitter)
            for emitter in emitters
        ]
        request = usage_pb2.ReportUsageRequest(events=events)
        return list(self._usage.ReportUsage(request, metadata=self._shown, timeout=20).results)

    def record_task(self, tenant: str, **more: Any) -> Any:
        request = usage_pb2.RecordTaskRequest(tenant_id=tenant, task_id="job", input_tokens=5, **more)
        return list(self._usage.RecordTask(request, metadata=self._shown, timeout=20).results)

    def correct(self, tenant: str) -> Any:
        request = usage_pb2.CorrectUsageRequest(
            tenant_id=tenant, original_id="e1", reason="mistaken", request_id="r1"
        )
        return self._usage.CorrectUsage(request, metadata=self._shown, timeout=20).result


ASKS: dict[str, Callable[[Caller, str], object]] = {
    "CheckEntitlement": Caller.check,
    "CheckEntitlement CONSUME": lambda caller, tenant: caller.check(tenant, "calls", mode=CONSUME),
    "BatchCheckEntitlements atomic": lambda caller, tenant: caller.batch(
        [Check(tenant_id=tenant, feature="calls", mode=CONSUME)], atomic=True
    ),
    "ListEntitlements": Caller.list,
    "ExplainEntitlement": Caller.explain,
    "WatchEntitlements": lambda caller, tenant: next(caller.watch(tenant)),
    "RecordTask": Caller.record_task,
    "CorrectUsage": Caller.correct,
}
"""RPCs that fail as a whole for a tenant of somebody else."""


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_tenant_of_somebody_else_is_refused(beside: Sidecar, ask: Callable[[Caller, str], object]) -> None:
    """The caller's own is answered; the other one, and one that does not exist, are refused alike."""
    caller = Caller(beside.channel)
    ask(caller, "mine")
    for tenant in ("theirs", "nobody"):
        refused = failure(lambda tenant=tenant: ask(caller, tenant))  # type: ignore[misc] # bound now
        assert refused.code is grpc.StatusCode.PERMISSION_DENIED
        assert refused.message == f"caller 'checkout' may not ask about tenant {tenant!r}"
        assert refused.reason == "PERMISSION_DENIED"


EVERY = {
    **ASKS,
    "BatchCheckEntitlements": lambda caller, tenant: caller.batch([Check(tenant_id=tenant, feature="sso")]),
    "ReportUsage": Caller.report,
}


@pytest.mark.parametrize("token", ["", "wrong"])
@pytest.mark.parametrize("ask", EVERY.values(), ids=EVERY)
def test_strangers_are_refused(beside: Sidecar, ask: Callable[[Caller, str], object], token: str) -> None:
    """Every RPC of the contract that is served asks who calls."""
    refused = failure(lambda: ask(Caller(beside.channel, token), "mine"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


def test_one_bad_tenant_fails_its_own_check(beside: Sidecar) -> None:
    """Its neighbours in the batch are answered."""
    before = beside.metric("entitlement_calls_denied_total")
    checks = [Check(tenant_id=tenant, feature="sso") for tenant in ("mine", "theirs", "mine")]

    results = Caller(beside.channel).batch(checks)

    assert [one.decision.reason for one in (results[0], results[2])] == [Reason.ENABLED] * 2
    error = results[1].error
    assert (error.code, error.reason, error.message) == (
        grpc.StatusCode.PERMISSION_DENIED.value[0],
        "PERMISSION_DENIED",
        DENIED,
    )
    assert beside.metric("entitlement_calls_denied_total") == before + 1


def test_one_bad_tenant_fails_its_own_event(beside: Sidecar) -> None:
    """Its neighbours in the report are kept."""
    results = Caller(beside.channel).report("mine", "theirs", "mine")

    outcomes = [one.outcome for one in results]
    assert outcomes == [UsageOutcome.ACCEPTED, UsageOutcome.INVALID, UsageOutcome.ACCEPTED]
    assert (results[1].reason, results[1].retriable) == (DENIED, False)


def test_a_caller_reports_in_its_own_name(beside: Sidecar) -> None:
    """Another's is refused, event by event, and before a task is recorded."""
    own, other = Caller(beside.channel).report_as("checkout", "crm")
    failed = failure(lambda: Caller(beside.channel).record_task("mine", emitter="crm"))

    assert own.outcome == UsageOutcome.ACCEPTED
    assert (other.outcome, other.rule) == (UsageOutcome.INVALID, "usage:emitter")
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == {
        "emitter": "caller 'checkout' may not report as 'crm'; expected checkout, or none"
    }


def test_answers_that_are_kept_are_given_to_nobody_else(beside: Sidecar) -> None:
    """What one caller has asked often is still refused to strangers."""
    for _ in range(20):
        assert Caller(beside.channel).check("mine").allowed
    assert failure(lambda: Caller(beside.channel, "").check("mine")).code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("front", ["fast", "aio"])
def test_a_running_sidecar_follows_its_callers_file(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, front: str
) -> None:
    """Without a restart a tenant that is taken away is refused, its watch ends, and a socket is opened."""
    (tmp_path / "tenants.yaml").write_text(CATALOGUE + "  mine: {plan: pro}\n  theirs: {plan: pro}\n")
    file, path = tmp_path / "callers.yaml", tmp_path_factory.mktemp("s") / "s"
    file.write_text(callers())
    options = ("--snapshot-file", str(tmp_path / "tenants.yaml"), "--callers", str(file))
    sidecar = Sidecar(tmp_path / "state", *options, front=front).start()
    try:
        caller = Caller(sidecar.channel)
        following = caller.watch("mine")
        next(following)
        assert caller.check("mine").allowed
        assert caller.check("mine").allowed
        more = f"  - {{name: reports, socket: {path}, mode: 0660, tenants: [mine]}}\n"
        file.write_text(callers("[theirs]") + more)

        assert failure(lambda: next(following)).code is grpc.StatusCode.PERMISSION_DENIED
        until(lambda: sidecar.metric("entitlement_files_reloaded_total"), "the file to be in effect")
        assert caller.check("theirs").allowed
        assert failure(lambda: caller.check("mine")).code is grpc.StatusCode.PERMISSION_DENIED
        assert path.stat().st_mode & 0o777 == 0o660
        with grpc.insecure_channel(f"unix:{path}") as channel:
            assert Caller(channel, "").check("mine").allowed
            refused = failure(lambda: Caller(channel, "").check("theirs"))
        assert refused.message == "caller 'reports' may not ask about tenant 'theirs'"
    finally:
        sidecar.stop()
    assert not path.exists()


def test_a_running_sidecar_takes_a_new_certificate(tmp_path: Path) -> None:
    """It is shown from the next handshake on; the metric says when it ends."""
    (tmp_path / "tenants.yaml").write_text(CATALOGUE + "  mine: {plan: pro}\n")
    old, new = Authority("old"), Authority("new")
    certificate, key = old.signs(*LOCAL).write(tmp_path)
    options = ("--tls-cert", str(certificate), "--tls-key", str(key))
    file = ("--snapshot-file", str(tmp_path / "tenants.yaml"))
    sidecar = Sidecar(tmp_path / "state", *file, *options, front="aio").start()

    def allowed(authority: Authority) -> bool:
        credentials = grpc.ssl_channel_credentials(authority.pem)
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(f"127.0.0.1:{sidecar.port}", credentials, options=options) as channel:
            answer: bool = Caller(channel, "").check("mine").allowed
            return answer

    try:
        assert allowed(old)
        ends = sidecar.metric("entitlement_tls_certificate_expires_seconds")
        new.signs(*LOCAL, days=9).write(tmp_path)
        until(
            lambda: sidecar.metric("entitlement_tls_certificate_expires_seconds") > ends,
            "the certificate to be read",
        )
        assert allowed(new)
        assert failure(lambda: allowed(old)).code is grpc.StatusCode.UNAVAILABLE
    finally:
        sidecar.kill()
