"""A second opinion: the same servers asked by h2load, which repeats one body.

It does not look at grpc-status, so a real client verifies before and after, as for every other measurement.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile

from benchmarks.servers import Cores, Server
from benchmarks.workloads import Workload

MISSING = (
    "h2load is not installed, so its rows are missing (Debian has it in nghttp2-client); "
    "everything else is measured without it"
)


def available() -> bool:
    """Whether h2load is on the path."""
    return shutil.which("h2load") is not None


def rate(server: Server, workload: Workload, cores: Cores, seconds: float) -> float:
    """Calls a second of the workload's first body, 64 in flight.

    Raises:
        SystemExit: h2load failed, or answered calls other than with 200.
    """
    workload.verify_on(f"127.0.0.1:{server.port}")
    with tempfile.NamedTemporaryFile(suffix=".bin") as body:
        message = workload.bodies[0]
        body.write(b"\0" + len(message).to_bytes(4, "big") + message)
        body.flush()
        command = [
            "h2load", "-c", "4", "-m", "16", "-t", "1", "-D", f"{max(1, round(seconds))}",
            "--warm-up-time", "1", "-d", body.name,
            "-H", "content-type: application/grpc", "-H", "te: trailers",
            f"http://127.0.0.1:{server.port}{workload.path}",
        ]  # fmt: skip
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=60 + seconds,
            preexec_fn=lambda: os.sched_setaffinity(0, {cores.client}),
        )
    workload.verify_on(f"127.0.0.1:{server.port}")
    return _rate_of(done)


def _rate_of(done: subprocess.CompletedProcess[str]) -> float:
    found = re.search(r"finished in [^,]+, ([\d.]+) req/s", done.stdout)
    failed = re.search(r"(\d+) failed, (\d+) errored", done.stdout)
    if done.returncode or not found or not failed or failed.groups() != ("0", "0"):
        raise SystemExit(f"h2load failed:\n{done.stdout}{done.stderr}")
    return float(found.group(1))
