"""Pages of lists: how many at once, and where the next page begins."""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Query

from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.wire.fields import expected

MAX_PAGE = 1000
_LONGEST = 64
_MAX_NUMBER = 2**63 - 1

_Row = TypeVar("_Row")
_Place = TypeVar("_Place", bound=msgspec.Struct)

PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most entries of a page.")]
Cursor = Annotated[str, Query(description="`next_cursor` of the page before.")]

_FORM = "the `next_cursor` of a page"

_making = threading.Lock()
"""Two threads that make the first decoder of a type at once can end the process."""


def page_of(rows: Sequence[_Row], limit: int) -> tuple[Sequence[_Row], _Row | None]:
    """One page of rows that were asked for with one more than fit, and the last of it where more follow."""
    page = rows[:limit]
    return page, page[-1] if len(rows) > limit else None


def cursor_of(place: msgspec.Struct) -> str:
    """A cursor that says a place in a list whose order is more than one column."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def place_of(cursor: str, kind: type[_Place]) -> _Place | None:
    """The place that a cursor says; None for the first page.

    Numbers of a place have 64 bits unless its type says less.

    Raises:
        InvalidInputError: It says none that a row can have.
    """
    if not cursor:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        with _making:
            place = msgspec.json.Decoder(kind).decode(text)
    except (ValueError, msgspec.MsgspecError):
        raise InvalidInputError.of("cursor", expected(_FORM, cursor)) from None
    if not all(_may_be_asked(value) for value in msgspec.structs.astuple(place)):
        raise InvalidInputError.of("cursor", expected(_FORM, cursor))
    return place


def _may_be_asked(value: Any) -> bool:  # noqa: ANN401 - whatever a place is made of
    """Whether a database takes it: no row has another value, so no page gave it."""
    match value:
        case str():
            return "\0" not in value
        case int():
            return -_MAX_NUMBER <= value <= _MAX_NUMBER
        case datetime():
            return _is_instant(value)
        case _:
            return True


def _is_instant(value: datetime) -> bool:
    try:
        return value.tzinfo is not None and value.astimezone(UTC) is not None
    except OverflowError:
        return False


def number_cursor(cursor: str) -> int | None:
    """A cursor that is a number; None for the first page.

    Raises:
        InvalidInputError: It is none.
    """
    if not cursor:
        return None
    if not (cursor.isascii() and cursor.isdigit()) or len(cursor) > len(str(_MAX_NUMBER)):
        raise InvalidInputError.of("cursor", expected(_FORM, cursor))
    return min(int(cursor), _MAX_NUMBER)


def name_cursor(cursor: str) -> str | None:
    """A cursor that is an id; None for the first page.

    Raises:
        InvalidInputError: It is none.
    """
    if not cursor:
        return None
    if not (cursor.isascii() and cursor.replace("_", "").isalnum()) or len(cursor) > _LONGEST:
        raise InvalidInputError.of("cursor", expected(_FORM, cursor))
    return cursor
