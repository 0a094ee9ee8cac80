"""The reference page of the settings, from the options of the commands that start processes."""

from __future__ import annotations

from typing import NamedTuple

import click

from entitlement_sidecar.cli.main import cli

HEAD = """# Configuration

A flag beats the environment, the environment beats the file given as `--config`, the file beats the default.
The file is YAML: one key per setting, named as the flag without dashes in front. Give what contains a
password by environment or file, never as a flag: arguments are visible to every user of a machine.
Written by `make generate` from the commands themselves.
"""

COMMANDS = (
    "entitlements sidecar",
    "entitlements planstore",
    "entitlements planstore migrate",
    "entitlements planstore backup",
    "entitlements planstore restore",
    "entitlements planstore after-restore",
    "entitlements quickstart",
)
COLUMNS = "| flag | environment | default | meaning |\n|---|---|---|---|\n"


class Setting(NamedTuple):
    """One setting of a process."""

    flag: str
    variable: str
    default: str
    meaning: str


def load(command: str) -> click.Command:
    """The command itself, as the command line finds it.

    Raises:
        LookupError: There is no such command.
    """
    found: click.Command | None = cli
    for name in command.split()[1:]:
        if isinstance(found, click.Group):
            found = found.get_command(click.Context(found), name)
    if found is None:
        raise LookupError(command)
    return found


def settings(command: str) -> list[Setting]:
    """Every option of a command, in the order of its help."""
    return [_setting(option) for option in load(command).params if isinstance(option, click.Option)]


def render() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(_section(command) for command in COMMANDS)])


def _section(command: str) -> str:
    about = (load(command).help or "").split("\n\n")[0].replace("\n", " ")
    rows = "".join(
        f"| `{item.flag}` | {_code(item.variable)} | {_code(item.default)} | {item.meaning} |\n"
        for item in settings(command)
    )
    return f"## `{command}`\n\n{about}\n\n{COLUMNS}{rows}"


def _setting(option: click.Option) -> Setting:
    flag = " / ".join([max(option.opts, key=len), *option.secondary_opts])
    return Setting(flag, _variable(option), _default(option), (option.help or "").replace("|", "\\|"))


def _variable(option: click.Option) -> str:
    named = option.envvar or ""
    return named if isinstance(named, str) else " ".join(named)


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.default
    if value is None or callable(value) or "UNSET" in repr(value):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
