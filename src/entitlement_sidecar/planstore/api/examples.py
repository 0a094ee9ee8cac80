"""An example of what a JSON schema describes, from the examples of its parts."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]

INSTANT = "2026-01-31T12:00:00Z"
DAY = "2026-01-31"
_REF = "#/components/schemas/"


def example_of(schema: JsonObject, schemas: JsonObject) -> Any:  # noqa: ANN401 - JSON
    """A value that fits `schema`; `schemas` are those that it may refer to."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].removeprefix(_REF)], schemas)
    said = [schema[name] for name in ("example", "const", "default") if schema.get(name) is not None]
    said = [*schema.get("examples", ()), *said, *schema.get("enum", ())]
    if said:
        return said[0]
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return _choice(schema[choice], schemas)
    return _plain(schema, schemas)


def _choice(choices: list[JsonObject], schemas: JsonObject) -> Any:  # noqa: ANN401 - JSON
    """What may be null is null, unless an example says what it is otherwise."""
    said = next((one for one in choices if one.get("examples") or "$ref" in one), None)
    if said is None and {"type": "null"} in choices:
        return None
    return example_of(said or choices[0], schemas)


def _plain(schema: JsonObject, schemas: JsonObject) -> Any:  # noqa: ANN401 - JSON
    match schema.get("type"):
        case "object":
            return _object(schema, schemas)
        case "array":
            return [example_of(schema["items"], schemas)] if schema.get("items") else []
        case "string":
            return _text(schema)
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", 0))
        case "boolean":
            return False
        case _:
            return None


def _object(schema: JsonObject, schemas: JsonObject) -> JsonObject:
    """Without what may be left out and has no example."""
    required = schema.get("required", ())
    parts = {name: example_of(part, schemas) for name, part in schema.get("properties", {}).items()}
    return {name: value for name, value in parts.items() if value is not None or name in required}


def _text(schema: JsonObject) -> str:
    formats = {"date-time": INSTANT, "date": DAY}
    return formats.get(str(schema.get("format")), "x" * int(schema.get("minLength", 0)))
