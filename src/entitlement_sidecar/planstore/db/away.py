"""How a database that is away, and one that is misnamed, looks: what drivers and pool raise then."""

from __future__ import annotations

from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

AWAY = (OperationalError, InterfaceError, PoolTimeoutError)
"""Errors after which the same call may succeed later."""

MISNAMED = (ProgrammingError, ArgumentError, ValueError)
"""Errors of connecting for which the URL is to blame, such as an option that the driver does not know."""


def told(error: Exception) -> str:
    """What a driver says, in a line. It names host, role and option, never the password."""
    why = getattr(error, "orig", None) or error
    return " ".join(str(why).split())
