"""ConfirmSnapshots: what became of many versions, in one statement, and as of when."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from sqlalchemy import delete

from entitlement_sidecar.planstore.api.rpc_auth import TokenInterceptor
from entitlement_sidecar.planstore.api.rpc_snapshots import MAX_CONFIRMED, SnapshotServicer
from entitlement_sidecar.planstore.db import CatalogueRow
from entitlement_sidecar.planstore.snapshots.feed import Beats, FeedSignal, read_clock
from entitlement_sidecar.wire.codec import from_timestamp
from entitlement_sidecar.wire.status import from_rpc_error
from entitlement_sidecar.wire.v1 import snapshot_pb2, snapshot_pb2_grpc
from support.statements import recorded


@pytest.fixture
def stub(shop: Any) -> Iterator[snapshot_pb2_grpc.SnapshotServiceStub]:
    """A plan store's SnapshotService."""
    pool, signal = ThreadPoolExecutor(2), FeedSignal()
    server = grpc.server(pool, interceptors=[TokenInterceptor(shop.gate)])
    beats = Beats(shop.database, shop.key, shop.clock)
    snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(
        SnapshotServicer(shop.database, shop.ring, beats, signal), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield snapshot_pb2_grpc.SnapshotServiceStub(channel)
    server.stop(0).wait()
    pool.shutdown()


def confirm(stub: Any, *held: tuple[str, int]) -> Any:
    """One call."""
    versions = [snapshot_pb2.HeldVersion(tenant_id=tenant, version=version) for tenant, version in held]
    request = snapshot_pb2.ConfirmSnapshotsRequest(held=versions)
    return stub.ConfirmSnapshots(request, metadata=(("authorization", "Bearer of-this-test"),), timeout=30)


def test_what_is_not_the_newest_is_named(shop: Any, stub: Any) -> None:
    """An older version, one that never was, and tenants that do not exist; all others are confirmed."""
    for tenant in ("acme", "globex", "initech"):
        shop.subscribe(tenant)
    before = read_clock(shop.database)

    told = confirm(stub, ("acme", 1), ("globex", 2), ("initech", 1), ("nobody", 1))

    assert list(told.outdated_tenant_ids) == ["globex"]
    assert list(told.unknown_tenant_ids) == ["nobody"]
    assert before <= from_timestamp(told.true_at) <= read_clock(shop.database)


def test_an_empty_database_says_of_nobody_that_they_do_not_exist(shop: Any, stub: Any) -> None:
    """Most likely it is the wrong one, and sidecars would drop everybody."""
    with shop.database.writing() as session:
        session.execute(delete(CatalogueRow))
    one = snapshot_pb2.GetSnapshotRequest(tenant_id="acme")
    token = (("authorization", "Bearer of-this-test"),)
    for call in (lambda: confirm(stub, ("acme", 1)), lambda: stub.GetSnapshot(one, metadata=token)):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "no catalogue" in caught.value.details()


def test_many_are_one_statement(shop: Any, stub: Any) -> None:
    """However many: the clock is read before it, in a transaction of its own."""
    shop.subscribe()
    confirm(stub, ("acme", 1))
    with recorded(shop.database.engine) as few:
        confirm(stub, ("acme", 1), ("nobody", 1))
    with recorded(shop.database.engine) as many:
        told = confirm(stub, ("acme", 1), *((f"t{number}", 1) for number in range(MAX_CONFIRMED - 1)))

    assert len(few) == len(many)
    assert len(told.unknown_tenant_ids) == MAX_CONFIRMED - 1


@pytest.mark.parametrize(
    ("held", "field"),
    [
        ([], "held"),
        ([(f"t{number}", 1) for number in range(MAX_CONFIRMED + 1)], "held"),
        ([("acme", 1), ("", 1)], "held[1].tenant_id"),
        ([("acme", 0)], "held[0].version"),
        ([("acme", 1), ("acme", 2)], "held[0].tenant_id"),
    ],
    ids=["none", "too many", "no tenant", "no version", "twice"],
)
def test_what_is_malformed_is_named(stub: Any, held: list[tuple[str, int]], field: str) -> None:
    """The field, and what would be right."""
    with pytest.raises(grpc.RpcError) as caught:
        confirm(stub, *held)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{field}: expected" in str(from_rpc_error(caught.value))
