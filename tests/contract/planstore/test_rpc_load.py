"""Too many calls: refused at once, with when to come back; watchers have threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from entitlement_sidecar.domain.errors import ExhaustedError
from entitlement_sidecar.planstore.api.rpc_load import RETRY_AFTER, CallPool, LoadInterceptor
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.status import from_rpc_error
from entitlement_sidecar.wire.v1 import snapshot_pb2, snapshot_pb2_grpc
from support.waiting import until

ROOM = 2
"""Calls that may wait, and watchers that may watch."""


class Busy(snapshot_pb2_grpc.SnapshotServiceServicer):
    """Answers when it is let."""

    def __init__(self) -> None:
        self.under_way = 0
        self.go_on = threading.Event()

    def GetSnapshot(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Waits."""
        del request, context
        self.under_way += 1
        assert self.go_on.wait(60)
        return snapshot_pb2.GetSnapshotResponse()

    def WatchSnapshots(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - the contract's name
        """One message, then waits."""
        del request, context
        yield snapshot_pb2.WatchSnapshotsResponse(sequence=1)
        assert self.go_on.wait(60)


@pytest.fixture
def busy() -> Busy:
    """What is behind the server."""
    return Busy()


@pytest.fixture
def stub(busy: Busy) -> Iterator[snapshot_pb2_grpc.SnapshotServiceStub]:
    """A server with one thread for calls."""
    pool = CallPool(1)
    server = grpc.server(pool, interceptors=[LoadInterceptor(pool, ROOM, ROOM)])
    snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(busy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield snapshot_pb2_grpc.SnapshotServiceStub(channel)
        busy.go_on.set()
    server.stop(5).wait()
    pool.shutdown()


def answered(method: str, code: str) -> float:
    """How many calls of a method ended so."""
    labels = {"method": f"SnapshotService/{method}", "code": code}
    return metrics.REGISTRY.get_sample_value("entitlement_rpc_requests_total", labels) or 0.0


def test_who_would_wait_too_long_is_refused_at_once(busy: Busy, stub: Any) -> None:
    """While the others still wait; and they are answered, as are watchers meanwhile."""
    refused, served = answered("GetSnapshot", "RESOURCE_EXHAUSTED"), answered("GetSnapshot", "OK")
    with ThreadPoolExecutor(20) as callers:

        def call() -> Future[Any]:
            return callers.submit(stub.GetSnapshot, snapshot_pb2.GetSnapshotRequest(), timeout=60)

        calls = [call()]
        until(lambda: busy.under_way == 1, "the first to be under way", 60)
        calls += [call() for _ in range(19)]
        # One is under way and two wait: all others end before any of these does.
        until(lambda: sum(call.done() for call in calls) == 20 - 1 - ROOM, "the others to be refused", 60)
        messages = stub.WatchSnapshots(snapshot_pb2.WatchSnapshotsRequest(), timeout=60)
        assert next(messages).sequence == 1
        busy.go_on.set()
        errors = [error for call in calls if isinstance(error := call.exception(60), grpc.RpcError)]
        assert list(messages) == []

    told = from_rpc_error(errors[0])
    assert isinstance(told, ExhaustedError)
    assert told.retry_after == pytest.approx(RETRY_AFTER)
    assert len(errors) == 20 - 1 - ROOM
    assert answered("GetSnapshot", "RESOURCE_EXHAUSTED") - refused == len(errors)
    assert answered("GetSnapshot", "OK") - served == 1 + ROOM
