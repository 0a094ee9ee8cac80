"""Options that say where Redis is: the same in every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., object])


def redis_option(purpose: str) -> Callable[[_Command], _Command]:
    """`--redis`, with what it is for."""
    return click.option("--redis", default="", metavar="URL", help=purpose)


def redis_password_option(command: _Command) -> _Command:
    """`--redis-password-file`."""
    return click.option(
        "--redis-password-file",
        type=click.Path(path_type=Path),
        help="File with the password of Redis: one line, read again for each connection.",
    )(command)
