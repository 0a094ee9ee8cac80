"""A usage event as one line of JSON: what sinks write, and what an import reads again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from entitlement_sidecar.domain.usage import UsageEvent

_ALWAYS = frozenset({"id", "tenant_id", "metric", "value", "unit", "occurred_at", "recorded_at"})
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(UsageEvent)}

encode_line: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def event_to_json(event: UsageEvent) -> dict[str, Any]:
    """The event's fields by name, without those that say nothing; instants are RFC 3339 in UTC.

    `classification` is its name in lower case; it and `rule` are what the registry decided.
    """
    found: dict[str, Any] = {}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name in _ALWAYS or (value != _DEFAULTS[name] and value not in ({}, None)):
            found[name] = _plain(value)
    if event.classification is not None:
        found["classification"] = event.classification.name.lower()
    return found


def _plain(value: Any) -> Any:  # noqa: ANN401 - a field of an event
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value
