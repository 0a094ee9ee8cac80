"""`entitlements sidecar`: runs one sidecar."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from entitlement_sidecar.cli.config_file import config_option
from entitlement_sidecar.cli.redis_options import redis_option, redis_password_option
from entitlement_sidecar.telemetry.logging import configure_logging

DEFAULT_STATE = Path("~/.local/state/entitlements/sidecar")


@click.command(
    "sidecar",
    epilog="Every option is also an environment variable, for example ENTITLEMENTS_REDIS, and a key of the "
    "--config file (YAML). Options beat environment beats file.",
)
@config_option
@click.option("--listen", default="127.0.0.1:7400", show_default=True, help="gRPC: HOST:PORT or unix:/path.")
@click.option("--http", default="127.0.0.1:7401", show_default=True, help="Probes and metrics: HOST:PORT.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    help="Folder of the outbox; has to survive restarts.",
)
@redis_option("Redis that the plan store publishes to; the forms are those of the plan store's option.")
@redis_password_option
@click.option("--planstore", default="", help="HOST:PORT of the plan store's gRPC.")
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="File with the plan store's bearer token."
)
@click.option(
    "--trusted-keys",
    type=click.Path(path_type=Path),
    help="File with the plan store's public keys. Without it they are taken from the plan store.",
)
@click.option(
    "--snapshot-file",
    type=click.Path(path_type=Path),
    help="Catalogue file with tenants: runs without a plan store; quotas are then counted here alone.",
)
@click.option(
    "--front",
    type=click.Choice(["fast", "aio"]),
    default="fast",
    show_default=True,
    help="fast needs the extra of that name; aio is the reference.",
)
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Let gRPC listen on addresses that other machines reach; with TLS and callers too.",
)
@click.option(
    "--socket-mode",
    default="0600",
    show_default=True,
    metavar="MODE",
    help="Octal mode of the socket of --listen unix:/path: who may write to it may call.",
)
@click.option("--socket-group", default="", metavar="GROUP", help="Group of that socket.")
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path),
    help="PEM file with gRPC's certificate chain; needs --front aio. Read again when it changes.",
)
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file with its key.")
@click.option(
    "--tls-client-ca",
    type=click.Path(path_type=Path),
    help="PEM file with authorities: clients have to show a certificate of one of them.",
)
@click.option(
    "--callers",
    type=click.Path(path_type=Path),
    help="YAML file that says who may call, and about which tenants. Read again when it changes.",
)
@click.option(
    "--max-snapshot-bytes",
    type=click.IntRange(1 << 20),
    default=256 << 20,
    show_default=True,
    help="Bytes of snapshots in memory, and once more on disk: 20 features take about 15 kB in memory.",
)
@click.option(
    "--max-outbox-bytes",
    type=click.IntRange(1 << 20),
    default=1 << 30,
    show_default=True,
    help="Size of the outbox on disk.",
)
@click.option(
    "--subject-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with a key of 32 bytes or more: usage events get pseudonyms of subject and actor.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged.",
)
def sidecar(log_level: str, **settings: Any) -> None:  # noqa: ANN401 - each is typed by its option
    """Run a sidecar: answers entitlement checks, and keeps usage until it is in the ledger.

    \b
    With a plan store:       entitlements sidecar --planstore 127.0.0.1:7411 --token-file token
    With Redis in front:     ... --redis redis://127.0.0.1:6379/0
    From a file, alone:      entitlements sidecar --snapshot-file tenants.yaml
    """  # noqa: D301 - click wants the character itself: lines stay as they are
    from entitlement_sidecar.sidecar.config import FrontKind, SidecarConfig  # noqa: PLC0415 - keeps --help quick
    from entitlement_sidecar.sidecar.process import run  # noqa: PLC0415

    configure_logging(log_level)
    settings["state_dir"] = settings["state_dir"].expanduser()
    settings["front"] = FrontKind(settings["front"])
    asyncio.run(run(SidecarConfig(**settings)))
