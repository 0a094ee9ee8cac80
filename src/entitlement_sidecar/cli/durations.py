"""Durations as people write them: a number and its unit."""

from __future__ import annotations

import re

import click

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str, option: str, example: str) -> int:
    """The seconds of `90s`, `30m`, `2h` or `7d`.

    Raises:
        click.BadParameter: It is something else; names the option, and shows the example.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    if found is None:
        raise click.BadParameter(
            f"{text!r}: expected a number and s, m, h or d, such as {example}", param_hint=option
        )
    return int(found[1]) * _SECONDS[found[2]]
