"""Durations as people write them: a number and its unit."""

from __future__ import annotations

import re

import click

from entitlement_sidecar.wire.durations import parse_duration


def seconds_of(text: str, option: str, example: str) -> int:
    """The seconds of `90s`, `30m`, `2h` or `7d`.

    Raises:
        click.BadParameter: It is something else; names the option, and shows the example.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,8}[smhd]", text):
        raise click.BadParameter(
            f"{text!r}: expected a number and s, m, h or d, such as {example}", param_hint=option
        )
    return int(parse_duration(text))
