"""Progress of long work, on a terminal only: standard error stays quiet for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows a bar while the block runs; call what it yields with how much was done.

    Where nobody knows the total beforehand (None), it shows what was done and for how long.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - only where people look
    from rich.progress import Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    counting = (TextColumn("{task.description} {task.completed}"), TimeElapsedColumn())
    columns = counting if total is None else Progress.get_default_columns()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
