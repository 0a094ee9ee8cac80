"""Calls to a sidecar that cannot be right: each is answered by itself, and harms nothing beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from entitlement_sidecar.domain.decision import Reason
from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.wire.v1 import (
    decision_pb2,
    decision_pb2_grpc,
    quota_pb2,
    quota_pb2_grpc,
    snapshot_pb2,
    snapshot_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)
from support.failures import Failure, failure
from support.processes import Planstore, Sidecar, Site
from support.refusals import assert_explained, entitlements
from support.waiting import until

MiB = 1 << 20

_numbers = itertools.count()


class Asked(NamedTuple):
    """A sidecar, its plan store, and the event that it has taken before the test."""

    beside: Sidecar
    store: Planstore
    event_id: str

    @property
    def checks(self) -> decision_pb2_grpc.EntitlementServiceStub:
        """EntitlementService."""
        return decision_pb2_grpc.EntitlementServiceStub(self.beside.channel)

    @property
    def reports(self) -> usage_pb2_grpc.UsageServiceStub:
        """UsageService."""
        return usage_pb2_grpc.UsageServiceStub(self.beside.channel)


def event(id_: str, **fields: Any) -> usage_pb2.UsageEvent:
    """A good event, but for what is given."""
    good: dict[str, Any] = {
        "id": id_,
        "tenant_id": "acme",
        "metric": "exports",
        "value": 1,
        "correlation_id": "c",
    }
    return usage_pb2.UsageEvent(**{**good, **fields})


def stored(store: Planstore, *ids: str) -> bool:
    """Whether the ledger holds these events, each once."""
    answer = store.rest("GET", "/api/billing/organizations/acme/usage/events?limit=1000")
    held = [one["event_id"] for one in answer.json()["events"]]
    return all(held.count(one) == 1 for one in ids)


@pytest.fixture(params=["fast", "aio"])
def asked(request: pytest.FixtureRequest, shared_site: Site) -> Iterator[Asked]:
    """A sidecar that has taken usage; after the test it answers as before, and the usage arrives."""
    beside = shared_site.beside[request.param]
    event_id = f"before-{request.param}-{next(_numbers)}"
    [taken] = beside.report([event(event_id)])
    assert UsageOutcome(taken.outcome) is UsageOutcome.ACCEPTED
    yield Asked(beside, shared_site.store, event_id)
    assert beside.check("acme", "sso").allowed
    until(lambda: stored(shared_site.store, event_id), "the usage of before to be in the ledger")


def test_unknown_feature(asked: Asked) -> None:
    """A denial with its reason, also for a CONSUME, which then uses nothing."""
    for decision in (asked.beside.check("acme", "ssso"), asked.beside.consume("acme", "ssso")):
        assert (decision.allowed, Reason(decision.reason)) == (False, Reason.FEATURE_UNKNOWN)
        assert decision.consumption_id == ""


@pytest.mark.parametrize(
    ("fields", "field", "form"),
    [
        ({"quantity": -1}, "quantity", "expected 0 to 9007199254740991, got -1"),
        ({"tenant_id": ""}, "tenant_id", "expected 1 to 128 letters, digits"),
        ({"feature": "No Key"}, "feature", "expected 1 to 64 lower-case letters"),
        ({"requested_value_json": "{"}, "requested_value_json", "expected JSON: "),
    ],
    ids=["negative", "no-tenant", "no-key", "no-json"],
)
def test_malformed_check(asked: Asked, fields: dict[str, Any], field: str, form: str) -> None:
    """INVALID_ARGUMENT names the field and its form; in a batch only its own result does."""
    bad = decision_pb2.CheckEntitlementRequest(**{"tenant_id": "acme", "feature": "sso", **fields})
    found = failure(lambda: asked.checks.CheckEntitlement(bad, timeout=10))
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    assert found.fields.keys() == {field}
    assert found.fields[field].startswith(form)
    assert form in found.message

    good = decision_pb2.CheckEntitlementRequest(tenant_id="acme", feature="sso")
    batch = decision_pb2.BatchCheckEntitlementsRequest(checks=[good, bad])
    fine, wrong = asked.checks.BatchCheckEntitlements(batch, timeout=10).results
    assert fine.decision.allowed
    assert wrong.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert f"{field}: {form}" in wrong.error.message


def test_malformed_list(asked: Asked) -> None:
    """An empty tenant is refused there too."""
    request = decision_pb2.ListEntitlementsRequest()
    found = failure(lambda: asked.checks.ListEntitlements(request, timeout=10))
    assert (found.code, [*found.fields]) == (grpc.StatusCode.INVALID_ARGUMENT, ["tenant_id"])


def test_malformed_events_among_good_ones(asked: Asked) -> None:
    """Each has an outcome of its own that names the field; the good ones are kept."""
    good = [f"{asked.event_id}-{number}" for number in range(2)]
    results = asked.beside.report(
        [
            event(good[0]),
            event("negative", value=-1),
            event("no-tenant", tenant_id=""),
            event("unknown", metric="imports"),
            event(good[1]),
        ]
    )
    outcomes = [UsageOutcome(one.outcome) for one in results]
    assert outcomes == [
        UsageOutcome.ACCEPTED,
        UsageOutcome.INVALID,
        UsageOutcome.INVALID,
        UsageOutcome.UNKNOWN_METRIC,
        UsageOutcome.ACCEPTED,
    ]
    negative, no_tenant, unknown = (one.reason for one in results[1:4])
    assert negative == "value: expected 0 to 9007199254740991, got -1"
    assert no_tenant.startswith("tenant_id: expected 1 to 128 letters, digits")
    assert unknown.startswith("metric: 'imports' is not in catalogue version ")
    assert "which has calls, exports, gems; it is kept" in unknown
    until(lambda: stored(asked.store, *good), "the good ones to be in the ledger")


def test_oversized_request(asked: Asked) -> None:
    """More than 4 MiB is RESOURCE_EXHAUSTED, with both sizes; the connection lives on."""
    subject = "s" * (4 * MiB)
    check = decision_pb2.CheckEntitlementRequest(tenant_id="acme", feature="sso", subject=subject)
    found = failure(lambda: asked.checks.CheckEntitlement(check, timeout=10))
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(check.ByteSize()) in found.message
    assert str(4 * MiB) in found.message

    report = usage_pb2.ReportUsageRequest(events=[event("large", subject=subject)])
    assert failure(lambda: asked.reports.ReportUsage(report, timeout=10)).code is found.code


def test_oversized_batches(asked: Asked) -> None:
    """More than 1000 of anything is INVALID_ARGUMENT with both numbers, and nothing of it is kept."""
    check = decision_pb2.CheckEntitlementRequest(tenant_id="acme", feature="sso")
    checks = decision_pb2.BatchCheckEntitlementsRequest(checks=[check] * 1001)
    found = failure(lambda: asked.checks.BatchCheckEntitlements(checks, timeout=10))
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.fields == {"checks": "expected 1 to 1000 checks, got 1001"}

    accepted = asked.beside.metric("entitlement_usage_reported_total")
    events = usage_pb2.ReportUsageRequest(events=[event(f"many-{number}") for number in range(1001)])
    found = failure(lambda: asked.reports.ReportUsage(events, timeout=10))
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.fields == {"events": "expected 1 to 1000 events, got 1001"}
    assert asked.beside.metric("entitlement_usage_reported_total") == accepted


def test_bytes_that_are_no_message(asked: Asked) -> None:
    """INVALID_ARGUMENT says which message was expected."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = asked.beside.channel.unary_unary(
        "/entitlement.v1.EntitlementService/CheckEntitlement"
    )
    found = failure(lambda: call(b"\xff\xff\xff", timeout=10))
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.fields == {"request": "expected a serialised CheckEntitlementRequest"}


def _judged(call: Callable[[], object]) -> Failure:
    """How a call fails once it is judged: who comes with wrong tokens too often is slowed down before."""

    def judged() -> Failure | None:
        found = failure(call)
        return None if found.code is grpc.StatusCode.RESOURCE_EXHAUSTED else found

    return until(judged, "the token to be judged")


@pytest.mark.parametrize("token", [None, "wrong", ""], ids=["missing", "wrong", "empty"])
def test_planstore_without_its_token(shared_site: Site, token: str | None) -> None:
    """Every kind of call is UNAUTHENTICATED and says what is expected."""
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(f"127.0.0.1:{shared_site.store.grpc_port}") as channel:
        ingest = usage_pb2_grpc.UsageIngestServiceStub(channel)
        quota = quota_pb2_grpc.QuotaServiceStub(channel)
        snapshots = snapshot_pb2_grpc.SnapshotServiceStub(channel)
        for call in (
            lambda: ingest.IngestBatch(usage_pb2.IngestBatchRequest(), timeout=10, metadata=metadata),
            lambda: quota.Consume(quota_pb2.ConsumeRequest(), timeout=10, metadata=metadata),
            lambda: next(
                snapshots.WatchSnapshots(snapshot_pb2.WatchSnapshotsRequest(), timeout=10, metadata=metadata)
            ),
        ):
            found = _judged(call)
            assert (found.code, found.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
            assert "Authorization: Bearer TOKEN" in found.message


def test_usage_taken_with_a_wrong_token_is_kept(shared_site: Site, tmp_path: Path) -> None:
    """The sidecar says what is wrong, holds what it takes, and ships it once the token is right."""
    store, state, token = shared_site.store, tmp_path / "state", tmp_path / "token"
    token.write_text("wrong-token\n")
    beside = Sidecar(state, "--planstore", f"127.0.0.1:{store.grpc_port}", "--token-file", str(token)).start()
    try:
        [taken] = beside.report([event("kept-for-later")])
        assert UsageOutcome(taken.outcome) is UsageOutcome.ACCEPTED
        process = beside.process
        assert process is not None
        until(
            lambda: "expected `Authorization: Bearer TOKEN`" in process.output, "the log to say what is wrong"
        )
        until(lambda: beside.metric("entitlement_outbox_events") == 1, "the outbox to hold it")
        assert_explained(process.output)
        assert "wrong-token" not in process.output
        beside.kill()
        token.write_text(store.token)
        beside.start()
        until(lambda: stored(store, "kept-for-later"), "what was kept to be in the ledger")
    finally:
        beside.kill()


def _unless_slowed_down(command: tuple[str, ...]) -> str:
    done = entitlements(*command)
    assert_explained(done.out + done.err)
    if "too many wrong tokens" in done.err:
        return ""
    assert done.code == 2
    return done.err


def test_command_with_a_wrong_token(shared_site: Site, tmp_path: Path) -> None:
    """A command says that the credentials are wrong, and does not repeat them."""
    token = tmp_path / "token"
    token.write_text("wrong-token\n")
    url = f"http://127.0.0.1:{shared_site.store.http_port}"
    command = ("plans", "list", "--planstore", url, "--token-file", str(token))
    said = until(lambda: _unless_slowed_down(command), "the token to be judged")
    assert "expected `Authorization: Bearer TOKEN`" in said
    assert "wrong-token" not in said
