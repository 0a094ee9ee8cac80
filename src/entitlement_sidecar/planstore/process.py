"""One plan store process: start, run, stop.

start   database reachable and current → publisher → gRPC → HTTP
stop    readiness 503 and health NOT_SERVING for a while → HTTP requests end
        → gRPC calls end → publisher → database
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from entitlement_sidecar.planstore.bootstrap import Planstore, build
from entitlement_sidecar.planstore.config import PlanstoreConfig
from entitlement_sidecar.telemetry.signals import stop_on_signals

GRACE = 3.0
"""Seconds that gRPC calls under way may take while stopping."""

LINGER = 2.0
"""Seconds that it still answers while load balancers learn of it; none where only this machine calls."""

_log = logging.getLogger(__name__)

Started = Callable[[int, int], None]
"""Called with the HTTP and the gRPC port once calls are answered."""


async def run(config: PlanstoreConfig, started: Started | None = None) -> None:
    """Runs a plan store until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: It cannot start like this.
    """
    await serve(config, stop_on_signals(), started)


async def serve(config: PlanstoreConfig, stopping: asyncio.Event, started: Started | None = None) -> None:
    """Runs a plan store until the event is set.

    Raises:
        ConfigurationError: It cannot start like this.
    """
    planstore = build(config)
    try:
        planstore.publisher.start()
        for worker in planstore.workers:
            worker.start()
        planstore.grpc.start()
        http = asyncio.create_task(planstore.http.run_until_stopped())
        _log.info("REST on port %d, gRPC on port %d", planstore.http.port, planstore.grpc_port)
        if started is not None:
            started(planstore.http.port, planstore.grpc_port)
        await stopping.wait()
        _log.info("stopping")
        planstore.leave()
        await _linger(LINGER if config.allow_remote else 0.0)
        planstore.http.stop()
        await http
    finally:
        await asyncio.to_thread(_close, planstore)


_linger = asyncio.sleep


def _close(planstore: Planstore) -> None:
    planstore.signal.close()
    planstore.grpc.stop(GRACE).wait()
    planstore.publisher.stop()
    for worker in planstore.workers:
        worker.stop()
    planstore.database.close()
