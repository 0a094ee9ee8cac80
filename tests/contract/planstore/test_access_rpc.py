"""Which token may make which call over gRPC: the whole table, other tenants, wrong and revoked tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import select

from entitlement_sidecar.planstore.access import (
    PERMISSIONS,
    NewToken,
    Permission,
    Role,
    create_token,
    revoke_token,
)
from entitlement_sidecar.planstore.api import permissions
from entitlement_sidecar.planstore.api.rpc_auth import TokenInterceptor
from entitlement_sidecar.planstore.api.rpc_quotas import QuotaServicer
from entitlement_sidecar.planstore.api.rpc_snapshots import SnapshotServicer
from entitlement_sidecar.planstore.db import ApiTokenRow, AuditRow
from entitlement_sidecar.planstore.ingest.servicer import UsageIngestServicer
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.snapshots.feed import Beats, FeedSignal
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.wire.status import from_rpc_error
from entitlement_sidecar.wire.v1 import (
    quota_pb2,
    quota_pb2_grpc,
    snapshot_pb2,
    snapshot_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)


@pytest.fixture
def header(shop: Any) -> Callable[..., dict[str, str]]:
    """Makes a token; the header that shows it."""

    def make(role: Role, *tenants: str, name: str = "") -> dict[str, str]:
        with shop.database.writing() as session:
            wanted = NewToken(name=name or f"the-{role}", role=role, tenants=tenants)
            _, secret = create_token(session, wanted, shop.clock.now())
        return {"Authorization": f"Bearer {secret}"}

    return make


def audited(shop: Any, action: str) -> list[AuditRow]:
    with shop.database.reading() as session:
        return list(session.scalars(select(AuditRow).where(AuditRow.action == action)))


@pytest.fixture
def channel(shop: Any) -> Iterator[grpc.Channel]:
    """A plan store's gRPC, with everything that stands before it."""
    pool = ThreadPoolExecutor(4)
    server = grpc.server(pool, interceptors=[TokenInterceptor(shop.gate)])
    signal = FeedSignal()
    snapshots = SnapshotServicer(shop.database, shop.ring, Beats(shop.database, shop.key, shop.clock), signal)
    snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(snapshots, server)
    quotas = QuotaServicer(shop.quotas)
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(quotas, server)
    ingest = UsageIngestServicer(shop.database, Ledger(limits_of), shop.clock)
    usage_pb2_grpc.add_UsageIngestServiceServicer_to_server(ingest, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    signal.close()
    server.stop(0).wait()
    pool.shutdown()


def batch(*tenants: str) -> usage_pb2.IngestBatchRequest:
    stamp = Timestamp()
    stamp.FromDatetime(datetime(2026, 1, 31, 11, tzinfo=UTC))
    events = [
        usage_pb2.SequencedEvent(
            sequence=number,
            event=usage_pb2.UsageEvent(
                id=f"e{number}", tenant_id=tenant, metric="calls", value=1, unit="call", occurred_at=stamp,
                recorded_at=stamp, correlation_id="work", classification=1,
            ),
        )
        for number, tenant in enumerate(tenants, 1)
    ]  # fmt: skip
    return usage_pb2.IngestBatchRequest(instance="i-1", epoch=1, batch_id=1, events=events)


def consume(channel: grpc.Channel, metadata: Any, tenant: str = "acme") -> Any:
    request = quota_pb2.ConsumeRequest(tenant_id=tenant, feature="calls", quantity=1, request_id="r")
    return quota_pb2_grpc.QuotaServiceStub(channel).Consume(request, metadata=metadata, timeout=10)


def consume_all(channel: grpc.Channel, metadata: Any, tenant: str = "acme") -> Any:
    item = quota_pb2.ConsumeRequest(feature="calls", quantity=1, request_id="r2")
    request = quota_pb2.ConsumeAllRequest(tenant_id=tenant, items=[item])
    return quota_pb2_grpc.QuotaServiceStub(channel).ConsumeAll(request, metadata=metadata, timeout=10)


def snapshot(channel: grpc.Channel, metadata: Any, tenant: str = "acme") -> Any:
    request = snapshot_pb2.GetSnapshotRequest(tenant_id=tenant)
    return snapshot_pb2_grpc.SnapshotServiceStub(channel).GetSnapshot(request, metadata=metadata, timeout=10)


def confirm(channel: grpc.Channel, metadata: Any, *tenants: str) -> Any:
    held = [snapshot_pb2.HeldVersion(tenant_id=tenant, version=1) for tenant in tenants or ("acme",)]
    request = snapshot_pb2.ConfirmSnapshotsRequest(held=held)
    stub = snapshot_pb2_grpc.SnapshotServiceStub(channel)
    return stub.ConfirmSnapshots(request, metadata=metadata, timeout=10)


def catalogue(channel: grpc.Channel, metadata: Any) -> Any:
    request = snapshot_pb2.GetCatalogueRequest()
    return snapshot_pb2_grpc.SnapshotServiceStub(channel).GetCatalogue(request, metadata=metadata, timeout=10)


def watch(channel: grpc.Channel, metadata: Any) -> Any:
    request = snapshot_pb2.WatchSnapshotsRequest()
    stub = snapshot_pb2_grpc.SnapshotServiceStub(channel)
    messages = stub.WatchSnapshots(request, metadata=metadata, timeout=10)
    first = next(messages)
    messages.cancel()
    return first


def ingest(channel: grpc.Channel, metadata: Any, *tenants: str) -> Any:
    stub = usage_pb2_grpc.UsageIngestServiceStub(channel)
    return stub.IngestBatch(batch(*(tenants or ("acme",))), metadata=metadata, timeout=10)


def acquire(channel: grpc.Channel, metadata: Any, tenant: str = "acme") -> Any:
    request = quota_pb2.AcquireLeaseRequest(
        tenant_id=tenant, feature="calls", wants=1, request_id="r3", holder=HOLDER
    )
    return quota_pb2_grpc.QuotaServiceStub(channel).AcquireLease(request, metadata=metadata, timeout=10)


def report(channel: grpc.Channel, metadata: Any, tenant: str = "acme") -> Any:
    stamp = Timestamp()
    stamp.FromDatetime(datetime(2026, 1, 31, 11, tzinfo=UTC))
    request = quota_pb2.ReportUnadmittedRequest(
        tenant_id=tenant, feature="calls", quantity=1, occurred_at=stamp, request_id="r4"
    )
    return quota_pb2_grpc.QuotaServiceStub(channel).ReportUnadmitted(request, metadata=metadata, timeout=10)


RPC = [
    (Permission.CONSUME, consume),
    (Permission.CONSUME, consume_all),
    (Permission.CONSUME, acquire),
    (Permission.CONSUME, report),
    (Permission.FEED, snapshot),
    (Permission.FEED, confirm),
    (Permission.FEED, catalogue),
    (Permission.FEED, watch),
    (Permission.DELIVER, ingest),
]


HOLDER = quota_pb2.Holder(instance="edge", epoch=1)


def bearer(header: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in header.items())


def code_of(call: Callable[..., Any], *arguments: Any) -> grpc.StatusCode:
    try:
        call(*arguments)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("role", Role)
def test_each_role_over_grpc(shop: Any, header: Any, channel: grpc.Channel, role: Role) -> None:
    """A role may exactly what the table says; what an AI agent is refused is audited."""
    shop.subscribe()
    mine = bearer(header(role))
    for permission, call in RPC:
        able = permission in PERMISSIONS[role]
        wanted = grpc.StatusCode.OK if able else grpc.StatusCode.PERMISSION_DENIED
        assert code_of(call, channel, mine) is wanted, call
    refused = audited(shop, "access.refused")
    assert len(refused) == (len(RPC) if role is Role.AI_AGENT else 0)


def test_a_token_of_some_tenants_over_grpc(shop: Any, header: Any, channel: grpc.Channel) -> None:
    """The tenant of the message decides; a batch with an event of another tenant is refused as a whole."""
    shop.subscribe()
    shop.subscribe("globex")
    mine = bearer(header(Role.SIDECAR, "acme"))

    for call in (consume, consume_all, acquire, report, snapshot, confirm, ingest):
        assert code_of(call, channel, mine, "acme") is grpc.StatusCode.OK, call
        assert code_of(call, channel, mine, "globex") is grpc.StatusCode.PERMISSION_DENIED, call
    for call in (confirm, ingest):
        assert code_of(call, channel, mine, "acme", "globex") is grpc.StatusCode.PERMISSION_DENIED, call
    assert code_of(catalogue, channel, mine) is grpc.StatusCode.OK
    assert code_of(watch, channel, mine) is grpc.StatusCode.PERMISSION_DENIED


def test_leases_of_other_tenants_over_grpc(shop: Any, header: Any, channel: grpc.Channel) -> None:
    """A lease belongs to its tenant, whoever has heard of its id."""
    shop.subscribe()
    shop.subscribe("globex")
    lease = acquire(channel, bearer(header(Role.SIDECAR)), "globex").lease
    stub, told = quota_pb2_grpc.QuotaServiceStub(channel), {"lease_id": lease.id, "holder": HOLDER}
    calls: list[tuple[Any, Any]] = [
        (stub.RenewLease, quota_pb2.RenewLeaseRequest(**told, sequence=2)),
        (stub.SettleLease, quota_pb2.SettleLeaseRequest(**told)),
        (stub.ReturnLease, quota_pb2.ReturnLeaseRequest(**told)),
    ]
    codes = {
        tenant: [
            code_of(lambda call=call, request=request, mine=mine: call(request, metadata=mine, timeout=10))
            for call, request in calls
        ]
        for tenant in ("acme", "globex")
        for mine in [bearer(header(Role.SIDECAR, tenant, name=tenant))]
    }

    assert set(codes["acme"]) == {grpc.StatusCode.PERMISSION_DENIED}
    assert set(codes["globex"]) == {grpc.StatusCode.OK}


def test_wrong_tokens_over_grpc(channel: grpc.Channel) -> None:
    """UNAUTHENTICATED, then RESOURCE_EXHAUSTED with when to try again; also for streams."""
    codes = [code_of(call, channel, None) for call in (consume, snapshot, watch, ingest)]
    assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED}
    wrong = (("authorization", "Bearer ent_wrong"),)
    for _ in range(6):
        assert code_of(consume, channel, wrong) is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as caught:
        consume(channel, wrong)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert from_rpc_error(caught.value).retry_after == pytest.approx(1.0)
    assert code_of(catalogue, channel, (("authorization", "Bearer of-this-test"),)) is grpc.StatusCode.OK


def test_a_message_that_is_none_is_refused(channel: grpc.Channel) -> None:
    """What cannot be parsed is the caller's mistake; without a token it is not even tried."""
    call = channel.unary_unary("/entitlement.v1.QuotaService/Consume")
    mine = (("authorization", "Bearer of-this-test"),)
    assert code_of(lambda: call(b"\xff\xff", metadata=mine, timeout=10)) is grpc.StatusCode.INVALID_ARGUMENT
    assert code_of(lambda: call(b"\xff\xff", timeout=10)) is grpc.StatusCode.UNAUTHENTICATED


def test_no_reason_keeps_a_refusal_out_of_the_log(shop: Any, header: Any, channel: grpc.Channel) -> None:
    """What an AI agent is refused is audited whatever it says of itself, also what cannot be stored."""
    mine = (*bearer(header(Role.AI_AGENT)), ("x-reason", "a%00b%0Ac"))
    assert code_of(catalogue, channel, mine) is grpc.StatusCode.PERMISSION_DENIED
    with shop.database.reading() as session:
        (entry,) = session.scalars(select(AuditRow).where(AuditRow.action == "access.refused"))
    assert entry.reason == "a\ufffdb\ufffdc"


def test_a_stream_ends_when_its_token_is_revoked(shop: Any, header: Any, channel: grpc.Channel) -> None:
    """A sidecar that watches is asked for its token again and again."""
    mine = bearer(header(Role.SIDECAR, name="edge"))
    messages = snapshot_pb2_grpc.SnapshotServiceStub(channel).WatchSnapshots(
        snapshot_pb2.WatchSnapshotsRequest(), metadata=mine, timeout=30
    )
    next(messages)
    with shop.database.writing() as session:
        id_ = session.scalars(select(ApiTokenRow.id).where(ApiTokenRow.name == "edge")).one()
        revoke_token(session, id_, shop.clock.now())
    shop.clock.advance(6)

    with pytest.raises(grpc.RpcError) as caught:
        for _ in messages:
            pass

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_every_rpc_is_declared() -> None:
    """And no line is about an RPC that the contract does not have."""
    services = [
        snapshot_pb2.DESCRIPTOR.services_by_name["SnapshotService"],
        quota_pb2.DESCRIPTOR.services_by_name["QuotaService"],
        usage_pb2.DESCRIPTOR.services_by_name["UsageIngestService"],
    ]
    names = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert names == set(permissions.RPC)
