"""`--config FILE`: a YAML file whose keys are a command's options. Options beat environment beats file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def config_option(command: _Command) -> _Command:
    """Adds `--config` to a command."""
    option = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="YAML file with any of these options.",
    )
    return option(command)


def _load(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    values = _read(path)
    known = {name for parameter in context.command.params if (name := parameter.name) and name != "config"}
    given = {str(key).replace("-", "_"): value for key, value in values.items()}
    unknown = sorted(given.keys() - known)
    if unknown:
        allowed = ", ".join(sorted(name.replace("_", "-") for name in known))
        raise click.BadParameter(f"{path}: unknown setting {unknown[0]!r}; expected one of {allowed}")
    context.default_map = {**(context.default_map or {}), **given}


def _read(path: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - only commands that get a file pay for it

    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise click.BadParameter(f"{path}: not YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise click.BadParameter(f"{path}: expected `setting: value` lines, got {type(values).__name__}")
    return values
