"""Optimistic locking over HTTP: `ETag` of what has a version, `If-None-Match` and `If-Match` (S4.4).

A tag is `"VERSION-DIGEST"`. The version is what a change is about, and all that `If-Match` looks at: `"3"` is
as good as the whole tag. The digest is of the answer's text, because some of a resource follows from the time
of day and not from a change: without it a 304 would hide that a trial has ended.

A route that changes something takes `if_match: IfMatch` and hands `expected_version(if_match, body)` to what
changes it. That raises `StaleVersionError`, which `problems` answers with 412 to who sent `If-Match`, and
with 409 to who sent `expected_version`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Protocol

from fastapi import Depends, Header

from entitlement_sidecar.domain.errors import InvalidInputError

_TAG = re.compile(r'"([0-9]{1,18})(?:-[0-9a-f]+)?"')
_FORM = 'expected one `ETag` of the resource, such as "3"'
_DIGITS = 16


class Expecting(Protocol):
    """A body that may name the version that it is about."""

    @property
    def expected_version(self) -> int | None:
        """The version, or None for whichever it is."""


def tag_of(version: int, content: bytes) -> str:
    """The `ETag` of an answer's text."""
    return f'"{version}-{hashlib.sha256(content).hexdigest()[:_DIGITS]}"'


def version_tag(version: int) -> str:
    """The `ETag` for `If-Match` where only the version is known."""
    return f'"{version}"'


def is_held(tag: str, if_none_match: str | None) -> bool:
    """Whether the caller has this answer already (weak comparison, as RFC 9110 has it for this header)."""
    if if_none_match is None:
        return False
    held = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return "*" in held or tag in held


def _if_match(
    if_match: Annotated[
        str | None,
        Header(
            max_length=64,
            description="`ETag` of the resource: change it only if that is still its version, else 412.",
            examples=['"3"'],
        ),
    ] = None,
) -> int | None:
    if if_match is None:
        return None
    found = _TAG.fullmatch(if_match.strip())
    if found is None:
        raise InvalidInputError.of("If-Match", _FORM)
    return int(found[1])


IfMatch = Annotated[int | None, Depends(_if_match)]
"""The version that `If-Match` asks for, or None."""


def expected_version(if_match: int | None, body: Expecting | None) -> int | None:
    """The version that a change is about, from the header or the body.

    Raises:
        InvalidInputError: Both are given, and they differ.
    """
    said = body.expected_version if body is not None else None
    if if_match is not None and said is not None and if_match != said:
        raise InvalidInputError.of(
            "expected_version", f"expected the version of If-Match ({if_match}) or none, got {said}"
        )
    return said if if_match is None else if_match
