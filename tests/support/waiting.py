"""Waiting for a condition, with a deadline: never for luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def until(condition: Callable[[], _T], what: str, timeout: float = 20.0) -> _T:
    """The first true value of a condition; fails after `timeout` seconds, naming what was waited for."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}; last: {value!r}")
        time.sleep(0.02)
