"""Settings of the sidecar: few; everything else is a named constant beside its use."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from entitlement_sidecar.domain.address import target_address
from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.sidecar.rpc.socket_access import OWNER_ONLY, parse_mode
from entitlement_sidecar.wire.redis_target import RedisTarget, optional_target


class FrontKind(StrEnum):
    """Which front serves: `fast` needs the extra of that name."""

    FAST = "fast"
    AIO = "aio"


class SidecarConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How one sidecar runs. Flags beat environment beat file.

    Attributes:
        listen: Where gRPC is served: `HOST:PORT`, or `unix:/path`.
        http: Where probes and metrics are served: `HOST:PORT`.
        state_dir: Folder of the outbox; has to survive restarts.
        redis: Redis that the plan store publishes to (`wire.redis_target`); empty: none.
        redis_password_file: File with its password; none is sent without one.
        planstore: `HOST:PORT` of the plan store's gRPC; empty: none.
        token_file: File with the plan store's bearer token.
        trusted_keys: File with the plan store's public keys; needed with Redis alone.
        snapshot_file: Catalogue file with tenants, to run without a plan store.
        front: Which front serves.
        allow_remote: gRPC may listen on addresses that other machines reach.
        socket_mode: Octal mode of the socket, where `listen` is one.
        socket_group: Group of that socket; empty: that of the process.
        tls_cert: Certificate chain that gRPC shows; None: no TLS.
        tls_key: Its key.
        tls_client_ca: Authorities whose client certificates are asked for; None: no mTLS.
        callers: File that says who may call; None: whoever reaches the address.
        max_snapshot_bytes: Bytes of snapshots at most, in memory and once more on disk.
        max_outbox_bytes: Size of the outbox on disk at most.
        subject_key_file: File with the key of pseudonyms in usage events; None: names are kept.
    """

    listen: str = "127.0.0.1:7400"
    http: str = "127.0.0.1:7401"
    state_dir: Path
    redis: str = ""
    redis_password_file: Path | None = None
    planstore: str = ""
    token_file: Path | None = None
    trusted_keys: Path | None = None
    snapshot_file: Path | None = None
    front: FrontKind = FrontKind.FAST
    allow_remote: bool = False
    socket_mode: str = "0600"
    socket_group: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    callers: Path | None = None
    max_snapshot_bytes: int = 256 << 20
    max_outbox_bytes: int = 1 << 30
    subject_key_file: Path | None = None

    @property
    def redis_target(self) -> RedisTarget | None:
        """The Redis that the plan store publishes to, if any.

        Raises:
            ConfigurationError: The setting is malformed, or the password cannot be read.
        """
        return optional_target(self.redis, self.redis_password_file)

    def checked(self) -> SidecarConfig:
        """Itself, when its parts fit together.

        Raises:
            ConfigurationError: Names the settings, and what would be right.
        """
        self._check_listener()
        self._check_sources()
        return self

    def _check_sources(self) -> None:
        if self.snapshot_file and (self.planstore or self.redis):
            raise ConfigurationError(
                "--snapshot-file runs without a plan store: leave out --planstore and --redis"
            )
        if not (self.snapshot_file or self.planstore or self.redis):
            raise ConfigurationError(
                "nowhere to get snapshots from: give --planstore HOST:PORT (and --redis URL), "
                "or --snapshot-file FILE"
            )
        if self.planstore:
            target_address(self.planstore, "--planstore")
        if self.planstore and self.token_file is None:
            raise ConfigurationError("--planstore needs --token-file FILE with its bearer token")
        if self.redis and not (self.planstore or self.trusted_keys):
            raise ConfigurationError(
                "--redis without --planstore needs --trusted-keys FILE, to verify what Redis holds"
            )
        _ = self.redis_target

    def _check_listener(self) -> None:
        try:
            mode = parse_mode(self.socket_mode)
        except ValueError as error:
            raise ConfigurationError(f"--socket-mode {error}") from error
        if not self.listen.startswith("unix:") and (mode != OWNER_ONLY or self.socket_group):
            raise ConfigurationError("--socket-mode and --socket-group are for --listen unix:/path")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError("TLS needs both: --tls-cert FILE and --tls-key FILE")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ConfigurationError("--tls-client-ca needs --tls-cert FILE and --tls-key FILE")
        if self.tls_cert is not None and self.front is FrontKind.FAST:
            raise ConfigurationError("--tls-cert: the fast front has no TLS; add --front aio")
