"""Whether a value of a config feature lies within another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


def value_allowed(granted: Any, requested: Any) -> bool:  # noqa: ANN401 - config values are JSON
    """Whether a requested config value lies within the granted one.

    A number may be up to the granted number, a list's elements must all be in the granted list, anything
    else must be equal to the granted value or in the granted list. True is no number.
    """
    if isinstance(granted, list):
        wanted = requested if isinstance(requested, list) else [requested]
        return all(any(_same(item, offer) for offer in granted) for item in wanted)
    if _is_number(granted) and _is_number(requested):
        return bool(requested <= granted)
    return _same(granted, requested)


def any_allows(granted: Sequence[Any], requested: Any) -> bool:  # noqa: ANN401 - config values are JSON
    """Whether values that are all granted allow a requested one: one of them, or lists and texts together."""
    if any(value_allowed(value, requested) for value in granted):
        return True
    if not any(isinstance(value, list) for value in granted):
        return False
    listed = [value if isinstance(value, list) else [value] for value in granted if not _is_number(value)]
    return value_allowed([item for items in listed for item in items], requested)


def alike(one: Any, other: Any) -> bool:  # noqa: ANN401 - JSON, or structs of it
    """Whether two things say the same, down to JSON's kinds: 1, 1.0 and true are three."""
    if isinstance(one, msgspec.Struct):
        fields = one.__struct_fields__
        return type(one) is type(other) and all(alike(getattr(one, f), getattr(other, f)) for f in fields)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    kinds = all(isinstance(one, kind) == isinstance(other, kind) for kind in (bool, float))
    return kinds and bool(one == other)


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
