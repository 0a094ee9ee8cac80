"""Instants on the command line: RFC 3339, with a zone."""

from __future__ import annotations

from datetime import UTC, datetime

import click


def instant_of(text: str, option: str) -> datetime:
    """An instant in UTC.

    Raises:
        click.BadParameter: It is none, or has no zone; names the option.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = datetime.min  # noqa: DTZ901 - refused below, as is every instant without a zone
    if instant.tzinfo is None:
        raise click.BadParameter(
            f"{text!r}: expected an instant with a zone, such as 2026-01-31T12:00:00Z",
            param_hint=option,
        )
    return instant.astimezone(UTC)
