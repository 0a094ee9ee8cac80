# mypy: disable-error-code="no-untyped-call"
# The library says no types of its clusters and sentinels.
"""The publisher's client for each kind of Redis. Connects when it is first used."""

from __future__ import annotations

import hashlib
import threading
from typing import Any, cast

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException
from redis.sentinel import Sentinel

from entitlement_sidecar.wire.redis_credentials import credentials
from entitlement_sidecar.wire.redis_target import RedisKind, RedisTarget

TIMEOUT = 2.0
"""Seconds that Redis may take to connect or to answer the publisher."""


class Cluster:
    """The few commands that the plan store sends to a cluster, whose map is read when one is first sent.

    All methods raise redis.RedisError when a server is away.
    """

    def __init__(self, nodes: tuple[tuple[str, int], ...], options: dict[str, Any]) -> None:
        self._nodes = [ClusterNode(host, port) for host, port in nodes]
        self._options = options
        self._lock = threading.Lock()
        self._client: RedisCluster | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the client's own methods
        method = getattr(self._connected(), name)

        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            try:
                return method(*args, **options)
            except RedisClusterException as error:
                raise redis.ConnectionError(str(error)) from error

        return call

    def runs(self) -> str:
        """What tells the data of all primaries apart from what they would be after a restart or a failover.

        A replica that was a primary a moment ago tells of the primary that it follows now.
        """
        told = []
        for node in self._connected().get_primaries():
            about = cast("dict[str, object]", self.info("replication", target_nodes=node))
            told.append(str(about["master_replid"]))
        return hashlib.sha256(" ".join(sorted(told)).encode()).hexdigest()[:32]

    def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            self._client.close()

    def _connected(self) -> RedisCluster:
        with self._lock:
            if self._client is None:
                try:
                    self._client = RedisCluster(startup_nodes=self._nodes, **self._options)
                except RedisClusterException as error:
                    raise redis.ConnectionError(str(error)) from error
            return self._client


def connect(target: RedisTarget, timeout: float = TIMEOUT) -> redis.Redis | Cluster:
    """A client whose every answer may take `timeout` seconds."""
    options = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "credential_provider": credentials(target),
        **target.encryption(),
    }
    if target.kind is RedisKind.CLUSTER:
        return Cluster(target.nodes, options)
    options["db"] = target.database
    if target.kind is RedisKind.SENTINEL:
        asking = {"socket_timeout": timeout, "socket_connect_timeout": timeout, **target.encryption()}
        sentinel = Sentinel(target.nodes, sentinel_kwargs=asking)
        return cast("redis.Redis", sentinel.master_for(target.primary, **options))
    if target.path:
        return redis.Redis(unix_socket_path=target.path, **options)
    [(host, port)] = target.nodes
    return redis.Redis(host=host, port=port, **options)
