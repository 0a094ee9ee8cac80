"""The forms of the contract's fields, as every process checks them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MAX_NAME = 256
"""Characters of subject, actor, emitter and correlation id."""

MAX_REQUEST_ID = 128
"""Characters of request ids and event ids."""

MAX_REASON = 500
"""Characters of the reason of a correction."""

MAX_DIMENSIONS = 16
MAX_DIMENSION_KEY = 64
MAX_DIMENSION_VALUE = 256

TENANT_FORM = "1 to 128 letters, digits or any of ._:@/+=-, starting with a letter or digit"
KEY_FORM = "1 to 64 lower-case letters, digits or any of ._-, starting with a letter"

_SHOWN = 80

TENANT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:@/+=-]{0,127}"
_tenant = re.compile(TENANT_PATTERN).fullmatch
_key = re.compile(r"[a-z][a-z0-9._-]{0,63}").fullmatch


def is_tenant(text: str) -> bool:
    """Whether this is a tenant id."""
    return _tenant(text) is not None


def is_key(text: str) -> bool:
    """Whether this is a feature, metric, plan or add-on key."""
    return _key(text) is not None


def is_text(text: str, longest: int) -> bool:
    """Whether this is at most so many printable characters."""
    return len(text) <= longest and text.isprintable()


def expected(form: str, got: object) -> str:
    """What would be right, and what came, cut to a line."""
    shown = repr(got)
    return f"expected {form}, got {shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + '...'}"


def dimension_problems(dimensions: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a map of attributes: the field, and what would be right."""
    if len(dimensions) > MAX_DIMENSIONS:
        yield "dimensions", f"expected at most {MAX_DIMENSIONS} entries, got {len(dimensions)}"
    for key, value in dimensions.items():
        if not 0 < len(key) <= MAX_DIMENSION_KEY:
            yield "dimensions", f"expected keys of 1 to {MAX_DIMENSION_KEY} characters"
        if len(value) > MAX_DIMENSION_VALUE:
            yield (
                f"dimensions[{key[:MAX_DIMENSION_KEY]!r}]",
                f"expected at most {MAX_DIMENSION_VALUE} characters",
            )
        if "\0" in key or "\0" in value:
            yield "dimensions", "expected no NUL"
