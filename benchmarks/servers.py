"""Starts what is measured, as a user would, on a core of its own."""

from __future__ import annotations

import http.client
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

START_DEADLINE = 60.0
"""Seconds that a server may take to answer."""

_POLL = 0.005


class Server(msgspec.Struct, frozen=True):
    """A running server. Ports are on loopback; `http` is 0 for an echo."""

    name: str
    port: int
    http: int
    process: psutil.Popen
    seconds_to_ready: float

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return ("127.0.0.1", self.port)

    @property
    def resident_mib(self) -> float:
        """Memory that it holds now."""
        return float(self.process.memory_info().rss) / 2**20

    @property
    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


class Cores(msgspec.Struct, frozen=True):
    """Which core serves and which asks; the same one where there is only one."""

    server: int
    client: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first two cores that this process may use."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[1 % len(usable)])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def echo_server(kind: str, cores: Cores) -> Iterator[Server]:
    """An echo: `bare`, or behind a front of ours."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.echo_server", kind, str(port)]
    with _running(command, cores) as process:
        began = time.monotonic()
        _wait(process, lambda: _connects(port))
        yield Server(f"echo {kind}", port, 0, process, time.monotonic() - began)


@contextmanager
def sidecar(front: str, source: Sequence[str], state: Path, cores: Cores) -> Iterator[Server]:
    """A sidecar with one front; `source` are the options that say where its snapshots come from."""
    port, http_port = free_port(), free_port()
    command = [
        sys.executable, "-m", "entitlement_sidecar.cli", "sidecar",
        *source, "--state-dir", str(state), "--front", front,
        "--listen", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{http_port}",
        "--max-outbox-bytes", str(16 << 30), "--log-level", "warning",
    ]  # fmt: skip
    began = time.monotonic()
    with _running(command, cores) as process:
        _wait(process, lambda: _ready(http_port))
        yield Server(f"sidecar {front}", port, http_port, process, time.monotonic() - began)


@contextmanager
def _running(command: Sequence[str], cores: Cores) -> Iterator[psutil.Popen]:
    # Children inherit the affinity, so that every thread of theirs has it from the start.
    os.sched_setaffinity(0, {cores.server})
    try:
        process = psutil.Popen(command)
    finally:
        os.sched_setaffinity(0, {cores.client})
    try:
        yield process
    finally:
        _end(process)


def _end(process: psutil.Popen) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(30)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(process: psutil.Popen, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while not ready():
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(process.args)}: ended with {process.returncode} instead of serving")
        if time.monotonic() > deadline:
            raise SystemExit(f"{' '.join(process.args)}: not ready after {START_DEADLINE:.0f} s")
        time.sleep(_POLL)


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def kept_events(server: Server) -> int:
    """Events that a sidecar's outbox has committed, as its metrics say, also those that have left it."""
    return int(metric(server, "entitlement_outbox_accepted_events"))


def require_kept(server: Server, at_least: int) -> None:
    """What was answered has to be committed; its metric follows within a second or two.

    Raises:
        SystemExit: Fewer events were kept.
    """
    deadline = time.monotonic() + 10
    while (kept := kept_events(server)) < at_least:
        if time.monotonic() > deadline:
            raise SystemExit(f"{server.name}: {at_least} events were accepted, {kept} were kept")
        time.sleep(0.1)


def metric(server: Server, name: str) -> float:
    """A metric of a sidecar that has no labels."""
    found = [line for line in _metrics(server) if line.startswith(f"{name} ")]
    if not found:
        raise SystemExit(f"{server.name}: there is no metric {name}")
    return _value(found[0])


def metric_sum(server: Server, name: str, labels: str = "") -> float:
    """The sum of a metric of a sidecar over its labels, or those that begin so; 0 where there are none."""
    return sum(_value(line) for line in _metrics(server) if line.startswith(f"{name}{{{labels}"))


def _value(line: str) -> float:
    return float(line.rpartition(" ")[2])


def _metrics(server: Server) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=5)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
