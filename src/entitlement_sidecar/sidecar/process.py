"""One sidecar process: start, run, stop. The order in which it drains is written here and nowhere else.

start   outbox → sources → catalogue, or the last known one → fronts (nothing is answered before the
        outbox can keep it)
stop    health NOT_SERVING → listeners stay 2 s → calls under way end → leases go back →
        last commit → ship until the deadline → what is left stays on disk
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Collection
from functools import partial

from entitlement_sidecar.sidecar.bootstrap import Loop, Sidecar, build
from entitlement_sidecar.sidecar.config import SidecarConfig
from entitlement_sidecar.sidecar.usage.room import level_of
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.telemetry.signals import stop_on_signals

CATALOGUE_WITHIN = 0.3
"""Seconds that a start waits for the catalogue; then the last known one has to do."""

LINGER = 2.0
"""Seconds that listeners stay after the sidecar says that it is going away."""

RETURN_DEADLINE = 2.0
"""Seconds that giving leases back may take while stopping; the next start settles for what is left."""

SHIP_DEADLINE = 5.0
"""Seconds that shipping may take while stopping."""

CANCEL_AGAIN = 0.2
"""Seconds after which a loop that did not hear that it has to end is told again."""

RESTART_AFTER = 1.0
"""Seconds after which a loop that ended by a defect is started again."""

GIVE_WAY_AFTER = 0.0005
"""Seconds that a thread which computes keeps the interpreter from the event loop at most. The outbox's thread
translates hundreds of events at once; by the interpreter's own 5 ms a check would wait ten times as long."""

STATS_EVERY = 1.0
"""Seconds between two readings of the outbox for metrics."""

_log = logging.getLogger(__name__)

Started = Callable[[str, int], None]
"""Called with the gRPC address and the HTTP port once calls are answered."""


async def run(config: SidecarConfig, started: Started | None = None) -> None:
    """Runs a sidecar until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: It cannot start like this.
    """
    sys.setswitchinterval(GIVE_WAY_AFTER)
    await serve(config, stop_on_signals(), started)


async def serve(config: SidecarConfig, stopping: asyncio.Event, started: Started | None = None) -> None:
    """Runs a sidecar until the event is set.

    Raises:
        ConfigurationError: It cannot start like this.
    """
    sidecar = await build(config)
    try:
        await sidecar.loader.begin(CATALOGUE_WITHIN)
        address = await sidecar.front.start()
        async with asyncio.TaskGroup() as group:
            running: dict[str, Loop] = {**sidecar.loops, "outbox metrics": partial(_watch_outbox, sidecar)}
            loops = [group.create_task(_kept_running(name, loop)) for name, loop in running.items()]
            http = group.create_task(sidecar.http.run_until_stopped(), name="http")
            _log.info("serving on %s, probes on port %d", address, sidecar.http.port)
            if started is not None:
                started(address, sidecar.http.port)
            await stopping.wait()
            await _drain(sidecar, loops)
            sidecar.http.stop()
            await http
    finally:
        await sidecar.close()


async def _kept_running(name: str, loop: Loop) -> None:
    """Runs a loop again when it ends by a defect: a sidecar that can still answer must not end with it."""
    while True:
        try:
            await loop()
        except Exception:  # noqa: BLE001 - whatever it is, it is logged whole
            _log.exception("%s ended unexpectedly; it is started again", name)
            await asyncio.sleep(RESTART_AFTER)
        else:
            return


async def _drain(sidecar: Sidecar, loops: list[asyncio.Task[None]]) -> None:
    _log.info("draining")
    sidecar.readiness.drain()
    await sidecar.front.drain(LINGER)
    await sidecar.front.stop()
    if sidecar.leases is not None:
        await sidecar.leases.close(RETURN_DEADLINE)
    await sidecar.shipper.drain(SHIP_DEADLINE)
    await cancelled(loops)
    sidecar.keeping.note()
    stats = await sidecar.outbox.stats()
    _log.info("stopped; %d events stay in the outbox", stats.queued)


async def cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancels tasks until all have ended.

    Once is not enough: until Python 3.12, `asyncio.wait_for` (which the Redis client sends with) may take a
    cancellation for itself when what it waits for ends at the same instant.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN)


async def _watch_outbox(sidecar: Sidecar) -> None:
    while True:
        stats = await sidecar.outbox.stats()
        metrics.outbox_events.labels("queued").set(stats.queued)
        metrics.outbox_events.labels("dead").set(stats.dead)
        metrics.outbox_accepted.set(stats.accepted)
        metrics.outbox_settled.set(stats.settled)
        metrics.outbox_lost.set(stats.lost)
        metrics.outbox_bytes.set(stats.bytes_used)
        metrics.outbox_fill.set(sidecar.outbox.fill)
        metrics.outbox_level.set(level_of(sidecar.outbox.fill))
        oldest = time.time() if stats.oldest_recorded_at is None else stats.oldest_recorded_at
        metrics.outbox_oldest_seconds.set(max(0.0, time.time() - oldest))
        await asyncio.sleep(STATS_EVERY)
