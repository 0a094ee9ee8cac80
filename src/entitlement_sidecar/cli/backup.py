"""`entitlements planstore backup`, `restore` and `after-restore`: keeping what the plan store knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entitlement_sidecar.cli.config_file import config_option
from entitlement_sidecar.cli.planstore_options import database_option, state_option
from entitlement_sidecar.cli.redis_options import redis_option, redis_password_option

if TYPE_CHECKING:
    from entitlement_sidecar.planstore.config import PlanstoreConfig
    from entitlement_sidecar.planstore.db import Database
    from entitlement_sidecar.wire.redis_target import RedisTarget

REDIS_TIMEOUT = 10.0
"""Seconds that Redis may take for one answer."""

_force_option = click.option("--force", is_flag=True, help="Replace what is there.")


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@config_option
@database_option
@state_option
@_force_option
def backup(file: Path, database: str, state_dir: Path, *, force: bool) -> None:
    """Copy the embedded database to FILE, as it is at one instant. The plan store may run meanwhile.

    The signing key and the tokens in the state folder are not part of it: keep them apart from it.
    """
    from entitlement_sidecar.planstore.db.embedded_copy import back_up  # noqa: PLC0415 - keeps --help quick

    size = back_up(_embedded(database, state_dir, "pg_dump --format=custom"), file, replace=force)
    click.echo(f"{file}: {size} bytes")


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@config_option
@database_option
@state_option
@_force_option
def restore(file: Path, database: str, state_dir: Path, *, force: bool) -> None:
    """Put the copy FILE in the place of the embedded database. Stop the plan store first.

    Run `entitlements planstore after-restore` next: until then sidecars refuse what is older than what they
    hold.
    """
    from entitlement_sidecar.planstore.config import PlanstoreConfig, prepare_state  # noqa: PLC0415
    from entitlement_sidecar.planstore.db import embedded_copy  # noqa: PLC0415 - keeps --help quick

    target = _embedded(database, state_dir, "pg_restore")
    prepare_state(PlanstoreConfig(database=database, state_dir=state_dir.expanduser()))
    size = embedded_copy.restore(file, target, replace=force)
    click.echo(f"{target}: {size} bytes restored; next: entitlements planstore after-restore")


@click.command("after-restore")
@config_option
@database_option
@state_option
@click.option(
    "--signing-key",
    type=click.Path(path_type=Path),
    help="File with the key that signs. Default: in the state folder.",
)
@redis_option("Redis that is published to: strangers and blocks of quota are removed from it.")
@redis_password_option
@click.option("--reason", default="", help="Why, for the audit log.")
def after_restore(state_dir: Path, reason: str, **settings: Any) -> None:  # noqa: ANN401 - typed by options
    """Make what a restored database says newer than what sidecars hold. Stop the plan stores first.

    Every snapshot and the catalogue get a version above all that was ever published and are signed again, and
    the feed begins anew: sidecars that run read everything again as soon as the plan store is back. It is
    recorded in the audit log. Repeating it does no harm.
    """
    from entitlement_sidecar.planstore.config import PlanstoreConfig  # noqa: PLC0415 - keeps --help quick

    config = PlanstoreConfig(state_dir=state_dir.expanduser(), **settings)
    # Before anything is changed: a malformed setting has to be found now.
    target = config.redis_target
    from entitlement_sidecar.planstore.bootstrap import open_database  # noqa: PLC0415

    store = open_database(config)
    try:
        _lift(config, store, reason)
        if target is not None:
            strangers, blocks = _remove_strangers(target, store)
            click.echo(f"{strangers} snapshots of unknown tenants removed from Redis")
            click.echo(f"{blocks} blocks of quota removed from Redis")
    finally:
        store.close()


def _embedded(database: str, state_dir: Path, instead: str) -> Path:
    """The file of the embedded database.

    Raises:
        ConfigurationError: It is another one; names what is used for that.
    """
    from entitlement_sidecar.domain.errors import ConfigurationError  # noqa: PLC0415
    from entitlement_sidecar.planstore.config import PlanstoreConfig  # noqa: PLC0415
    from entitlement_sidecar.planstore.db import create_engine_for  # noqa: PLC0415

    config = PlanstoreConfig(database=database, state_dir=state_dir.expanduser())
    engine = create_engine_for(config.database_url)
    if engine.dialect.name != "sqlite":
        raise ConfigurationError(
            f"--database: this is for the embedded database; use {instead} for PostgreSQL"
        )
    return Path(str(engine.url.database))


def _lift(config: PlanstoreConfig, database: Database, reason: str) -> None:
    import getpass  # noqa: PLC0415

    from entitlement_sidecar.cli.progress import progress  # noqa: PLC0415
    from entitlement_sidecar.domain.clock import SystemClock  # noqa: PLC0415
    from entitlement_sidecar.planstore.audit import Actor, acting  # noqa: PLC0415
    from entitlement_sidecar.planstore.snapshots import after_restore as work  # noqa: PLC0415
    from entitlement_sidecar.wire.signing import SigningKey  # noqa: PLC0415

    key = SigningKey.load(config.key_path)
    total = work.count_snapshots(database)
    with acting(Actor(getpass.getuser(), "operator", reason)), progress("snapshots", total) as advance:
        lifted = work.lift(database, key, SystemClock().now(), advance)
    click.echo(f"{lifted.tenants} snapshots and the catalogue go on from version {lifted.version}")


def _remove_strangers(target: RedisTarget, database: Database) -> tuple[int, int]:
    """How many snapshots and how many blocks of quota were removed."""
    import redis  # noqa: PLC0415

    from entitlement_sidecar.domain.errors import SourceUnavailableError  # noqa: PLC0415
    from entitlement_sidecar.planstore.snapshots import after_restore as work  # noqa: PLC0415
    from entitlement_sidecar.planstore.snapshots.redis_client import connect  # noqa: PLC0415

    client = connect(target, REDIS_TIMEOUT)
    try:
        return work.remove_strangers(database, client), work.remove_blocks(client)
    except redis.RedisError as error:
        raise SourceUnavailableError(
            f"--redis: {type(error).__name__}: the database is done; repeat the command when Redis is back"
        ) from error
    finally:
        client.close()
