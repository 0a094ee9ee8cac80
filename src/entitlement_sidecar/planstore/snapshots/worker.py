"""A thread that does one step again and again: at once when woken, else after a pause."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, wait_random_exponential

PATIENCE = 5.0
"""Seconds that a step under way may take while stopping."""

_backoff = wait_random_exponential(multiplier=0.2, max=5)
_log = logging.getLogger(__name__)


class Worker:
    """Runs a step until stopped. A step that fails is tried again after a growing pause.

    A step that returns a number wants to go on after so many seconds, if that is sooner.
    """

    def __init__(self, name: str, step: Callable[[], object], pause: float) -> None:
        self._step = step
        self._pause = pause
        self._woken = threading.Event()
        self._stopped = threading.Event()
        # Tenacity keeps the count that its wait strategy reads.
        self._failures = RetryCallState(Retrying(), None, (), {})
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._woken.set()

    def stop(self) -> None:
        """Ends after the step under way, or leaves it behind when it does not end."""
        self._stopped.set()
        self._woken.set()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            _log.warning("%s: does not end; left behind", self._thread.name)

    def _run(self) -> None:
        failing = False
        while not self._stopped.is_set():
            self._woken.clear()
            try:
                wanted = self._step()
            except Exception as error:  # noqa: BLE001 - a worker outlives whatever is away
                _log.log(
                    logging.DEBUG if failing else logging.WARNING, "%s: %s", self._thread.name, _told(error)
                )
                failing = True
                self._sleep(_backoff(self._failures))
                self._failures.attempt_number += 1
                continue
            if failing:
                _log.info("%s: works again", self._thread.name)
            failing, self._failures.attempt_number = False, 1
            self._woken.wait(min(wanted, self._pause) if isinstance(wanted, float) else self._pause)

    def _sleep(self, seconds: float) -> None:
        """Waits, also when woken: what is away does not come back for being asked more often."""
        self._stopped.wait(seconds)


def _told(error: Exception) -> str:
    """A failure in a line; drivers repeat statements and addresses behind the first one."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
