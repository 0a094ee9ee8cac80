"""New files that hold a secret."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

import click


def new_private_file(path: Path) -> TextIO:
    """A new file that only this user can read; open for text.

    Raises:
        click.BadParameter: It cannot be made, or something is there already.
    """
    try:
        handle = os.open(path.expanduser(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        why = "is there already, and is not overwritten; name a new file"
    except OSError as error:
        why = str(error.strerror)
    else:
        return os.fdopen(handle, "w")
    raise click.BadParameter(f"{path}: {why}", param_hint="--to")
