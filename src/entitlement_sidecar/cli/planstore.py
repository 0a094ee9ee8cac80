"""`entitlements planstore`: runs one plan store, or brings its database to the current schema."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from entitlement_sidecar.cli.backup import after_restore, backup, restore
from entitlement_sidecar.cli.config_file import config_option
from entitlement_sidecar.cli.planstore_options import database_option, log_option, state_option
from entitlement_sidecar.cli.redis_options import redis_option, redis_password_option
from entitlement_sidecar.telemetry.logging import configure_logging


@click.group(
    "planstore",
    invoke_without_command=True,
    epilog="Every option is also an environment variable, for example ENTITLEMENTS_DATABASE, and a "
    "key of the --config file (YAML). Options beat environment beats file.",
)
@config_option
@database_option
@click.option("--http", default="127.0.0.1:7410", show_default=True, help="REST, probes, metrics: HOST:PORT.")
@click.option("--grpc", default="127.0.0.1:7411", show_default=True, help="For sidecars: HOST:PORT.")
@redis_option("Redis to publish to: redis://, rediss://, unix:///, redis+cluster:// or redis+sentinel://.")
@redis_password_option
@state_option
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="File with the bearer token; made when missing."
)
@click.option(
    "--signing-key", type=click.Path(path_type=Path), help="File with the signing key; made when missing."
)
@click.option(
    "--also-trust",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with public keys that signed before, or will: lines of KEY_ID BASE64, as in trusted.keys.",
)
@click.option(
    "--feed-shards",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Shards of the feed in Redis.",
)
@click.option("--allow-remote", is_flag=True, help="Listen on addresses that other machines reach.")
@click.option(
    "--usage-sink",
    default="",
    metavar="jsonl:PATH",
    help="File that accepted usage is appended to, one event in JSON per line.",
)
@log_option
@click.pass_context
def planstore(context: click.Context, /, log_level: str, **settings: Any) -> None:  # noqa: ANN401 - typed by options
    """Run the plan store: plans, subscriptions, quotas and the usage ledger."""
    if context.invoked_subcommand is not None:
        return
    from entitlement_sidecar.planstore.config import PlanstoreConfig  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.planstore.process import run  # noqa: PLC0415

    configure_logging(log_level)
    settings["state_dir"] = settings["state_dir"].expanduser()
    asyncio.run(run(PlanstoreConfig(**settings)))


@planstore.command("migrate")
@config_option
@database_option
@click.option(
    "--phase",
    type=click.Choice(["pre", "post", "all"]),
    default="all",
    show_default=True,
    help="For upgrades without a pause: pre before the first new plan store, post after the last old one.",
)
@click.option(
    "--grant-to", default="", metavar="ROLE", help="PostgreSQL: the role of the plan stores gets its rights."
)
@state_option
@log_option
def migrate(database: str, phase: str, grant_to: str, state_dir: Path, log_level: str) -> None:
    """Bring the database to the current schema. Safe to repeat, and safe with several at once."""
    from entitlement_sidecar.planstore.config import PlanstoreConfig, prepare_state  # noqa: PLC0415
    from entitlement_sidecar.planstore.db.migrate import Phase  # noqa: PLC0415
    from entitlement_sidecar.planstore.db.migrate import migrate as to_head  # noqa: PLC0415

    configure_logging(log_level)
    config = PlanstoreConfig(database=database, state_dir=state_dir.expanduser())
    prepare_state(config)
    click.echo(f"database is at revision {to_head(config.database_url, Phase(phase), grant_to)}")


@planstore.command("openapi")
def print_openapi() -> None:
    """Print the OpenAPI document of the REST, for generators of clients."""
    from entitlement_sidecar.planstore.api import openapi  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.planstore.api.app import create_app  # noqa: PLC0415

    click.echo(openapi.write_document(create_app(openapi.absent_dependencies()).openapi()), nl=False)


@planstore.command("rotate-key")
@click.argument("step", type=click.Choice(["prepare", "switch", "retire"]))
@config_option
@database_option
@state_option
@click.option(
    "--signing-key",
    type=click.Path(path_type=Path),
    help="File with the key that signs. Default: in the state folder.",
)
def rotate_key(step: str, database: str, state_dir: Path, signing_key: Path | None) -> None:
    """Change the key that signs snapshots, in three steps, without a moment in which none is trusted.

    `prepare` makes the next key and adds its public half to trusted.keys: give that file to every sidecar
    that has --trusted-keys, and start these again.

    `switch` makes the next key the one that signs: start the plan stores again; they sign all snapshots
    again in the background.

    `retire`, refused while anything is signed by the old key, leaves the new one alone in trusted.keys.
    """
    from entitlement_sidecar.cli.key_rotation import run_step  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.planstore.config import PlanstoreConfig  # noqa: PLC0415

    run_step(
        step, PlanstoreConfig(database=database, state_dir=state_dir.expanduser(), signing_key=signing_key)
    )


for command in (backup, restore, after_restore):
    planstore.add_command(command)
