"""On whose behalf the code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec


class Actor(msgspec.Struct, frozen=True):
    """Who acts, in which role, why, and in which request. Reason and request id may be empty."""

    name: str
    role: str
    reason: str = ""
    request_id: str = ""


SYSTEM = Actor("planstore", "system")
"""The plan store itself: what time changes, what it does at its start."""

_ACTOR: ContextVar[Actor] = ContextVar("actor", default=SYSTEM)


def current_actor() -> Actor:
    """Who acts now; the plan store itself where nobody was named."""
    return _ACTOR.get()


@contextmanager
def because(reason: str) -> Iterator[None]:
    """Everything inside is done for this reason, where the caller has given none."""
    actor = current_actor()
    with acting(msgspec.structs.replace(actor, reason=actor.reason or reason)):
        yield


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Everything inside is done by `actor`, also in threads that a request's work is handed to."""
    token = _ACTOR.set(actor)
    try:
        yield
    finally:
        _ACTOR.reset(token)
