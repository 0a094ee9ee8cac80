"""Options that several commands of the plan store's process share."""

from __future__ import annotations

from pathlib import Path

import click

DEFAULT_STATE = Path("~/.local/state/entitlements/planstore")

state_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    help="Folder of the token, the signing key and the embedded database.",
)
database_option = click.option(
    "--database",
    default="",
    help="postgresql+psycopg://USER@HOST/NAME or sqlite:///FILE. Default: SQLite in the state folder. "
    "Passwords belong in the environment or a --config file, not on the command line.",
)
log_option = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged.",
)
