"""How a database that is away looks: what drivers and pool raise then."""

from __future__ import annotations

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

AWAY = (OperationalError, InterfaceError, PoolTimeoutError)
"""Errors after which the same call may succeed later."""
