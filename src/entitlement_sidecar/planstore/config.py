"""Settings of the plan store: few; everything else is a named constant beside its use."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.access.tokens import PREFIX as TOKEN_PREFIX
from entitlement_sidecar.planstore.snapshots.rotation import KeyFiles, trust
from entitlement_sidecar.wire.redis_target import RedisTarget, optional_target
from entitlement_sidecar.wire.signing import KeyRing, SigningKey
from entitlement_sidecar.wire.token_file import read_token


class PlanstoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How one plan store process runs. Flags beat environment beat file.

    Attributes:
        database: SQLAlchemy URL; empty: SQLite in the state folder.
        http: Where REST, probes and metrics are served: `HOST:PORT`.
        grpc: Where sidecars connect: `HOST:PORT`.
        redis: Redis to publish to (`wire.redis_target`); empty: none.
        redis_password_file: File with its password; none is sent without one.
        state_dir: Folder of the token, the signing key and the embedded database.
        token_file: File with the bearer token; made when it is missing. Default: in the state folder.
        signing_key: File with the Ed25519 key; made when it is missing. Default: in the state folder.
        also_trust: File with further public keys: those of plan stores whose folder is another one.
        feed_shards: Shards of the feed in Redis.
        allow_remote: Listen on addresses that other machines reach.
        usage_sink: Where accepted usage goes on to: `jsonl:/path`; empty: nowhere.
    """

    database: str = ""
    http: str = "127.0.0.1:7410"
    grpc: str = "127.0.0.1:7411"
    redis: str = ""
    redis_password_file: Path | None = None
    state_dir: Path
    token_file: Path | None = None
    signing_key: Path | None = None
    also_trust: Path | None = None
    feed_shards: int = 4
    allow_remote: bool = False
    usage_sink: str = ""

    @property
    def database_url(self) -> str:
        """The database, also where none was given."""
        return self.database or f"sqlite:///{self.state_dir / 'planstore.db'}"

    @property
    def redis_target(self) -> RedisTarget | None:
        """The Redis to publish to, if any.

        Raises:
            ConfigurationError: The setting is malformed, or the password cannot be read.
        """
        return optional_target(self.redis, self.redis_password_file)

    @property
    def token_path(self) -> Path:
        """Where the bearer token is."""
        return self.token_file or self.state_dir / "token"

    @property
    def key_path(self) -> Path:
        """Where the signing key is."""
        return self.signing_key or self.state_dir / "signing.key"

    @property
    def trusted_keys_path(self) -> Path:
        """Where public keys are put, for sidecars; they stay until they are retired."""
        return self.state_dir / "trusted.keys"

    @property
    def key_files(self) -> KeyFiles:
        """Where keys are."""
        return KeyFiles(self.key_path, self.trusted_keys_path)


def prepare_state(config: PlanstoreConfig) -> None:
    """Makes the state folder, readable by its owner only.

    Raises:
        ConfigurationError: It cannot be made or written to.
    """
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--state-dir {config.state_dir}: {error.strerror}") from error
    if not os.access(config.state_dir, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"--state-dir {config.state_dir}: not writable; give a folder that this user may write to"
        )


def load_or_create_token(path: Path) -> str:
    """The bearer token; a fresh one, readable by its owner only, where there is none.

    Raises:
        ConfigurationError: The file cannot be read or written, or holds no token.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(TOKEN_PREFIX + secrets.token_urlsafe(32) + "\n")
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigurationError(f"--token-file {path}: {error.strerror}") from error
    return read_token(path, "--token-file")


def load_or_create_key(config: PlanstoreConfig, *, signed: bool) -> SigningKey:
    """The signing key; a fresh one where there is none. Writes its public half for sidecars.

    Args:
        config: Names the file.
        signed: The database holds what a key signed, so that a fresh one would be another.

    Raises:
        ConfigurationError: The file cannot be read or written, holds no key, or is missing where one was.
    """
    path = config.key_path
    if not path.exists():
        if signed:
            raise ConfigurationError(_lost(config))
        try:
            SigningKey.generate().save(path)
        except FileExistsError:
            pass  # another replica on the same volume was quicker
        except OSError as error:
            raise ConfigurationError(f"--signing-key {path}: {error.strerror}") from error
    key = SigningKey.load(path)
    trust(config.trusted_keys_path, key)
    return key


def trusted_keys(config: PlanstoreConfig) -> KeyRing:
    """All public keys that may have signed what the database holds.

    Raises:
        ConfigurationError: A file cannot be read, or a line is malformed.
    """
    files = [config.trusted_keys_path, *([config.also_trust] if config.also_trust else [])]
    keys: dict[str, bytes] = {}
    for path in files:
        keys |= KeyRing.load(path).public_keys
    return KeyRing(keys, pinned=True)


def anchoring_keys(config: PlanstoreConfig) -> KeyRing:
    """All public keys that may have signed anchors of the audit log: also those that were retired.

    Raises:
        ConfigurationError: A file cannot be read, or a line is malformed.
    """
    former = config.key_files.former
    retired = KeyRing.load(former).public_keys if former.exists() else {}
    return KeyRing({**retired, **trusted_keys(config).public_keys}, pinned=True)


def _lost(config: PlanstoreConfig) -> str:
    path = config.key_path
    return (
        f"--signing-key {path}: missing, but the database holds what a key signed: give that key's file. "
        "Where it is lost, make another: "
        f"`(umask 077; head -c 32 /dev/urandom | base64 > {path})`; with it everything is signed again at "
        f"the next start, and sidecars with --trusted-keys need the line in {config.trusted_keys_path}"
    )
