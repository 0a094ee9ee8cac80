"""`--config FILE`: a YAML file whose keys are a command's options. Options beat environment beats file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from entitlement_sidecar.wire.yaml_source import YamlDocument

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
    document = _read(path)
    known = {name: one for one in context.command.params if (name := one.name) and name != "config"}
    given: dict[str, Any] = {}
    for key, value in document.data.items():
        name = key.replace("-", "_")
        problem = _problem(name, value, known, context)
        if name in given:
            problem = "stands twice: remove one"
        if problem:
            place = document.problem((key,), f"{key!r}: {problem}", at_key=True)
            raise click.BadParameter(f"{path}: line {place.line}, column {place.column}: {place.message}")
        given[name] = value
    context.default_map = {**(context.default_map or {}), **given}


def _problem(name: str, value: Any, known: dict[str, click.Parameter], context: click.Context) -> str:  # noqa: ANN401 - plain data
    """What is wrong with one setting; empty when nothing is. Repeats no text: it may hold a password."""
    if name not in known:
        return f"unknown setting; expected one of {', '.join(sorted(known)).replace('_', '-')}"
    if value is None or isinstance(value, dict | list):
        return "expected one value: text, a number, true or false"
    try:
        known[name].type_cast_value(context, value)
    except click.BadParameter as error:
        return error.message
    return ""


def _read(path: Path) -> YamlDocument:
    from entitlement_sidecar.domain.errors import CatalogueError  # noqa: PLC0415 - only who gives a file pays
    from entitlement_sidecar.wire.yaml_source import read_yaml  # noqa: PLC0415

    try:
        document = read_yaml(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{path}: not UTF-8: save the file as UTF-8") from error
    except CatalogueError as error:
        raise click.BadParameter(str(error)) from error
    if document.problems:
        raise click.BadParameter(f"{path}: {document.problems[0]}")
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        raise click.BadParameter(f"{path}: expected `setting: value` lines")
    return document
