"""Says everything that is wrong with the shape of a catalogue document.

The schema is data (`catalogue.schema.json`, usable by editors too). Its `description`s are what the accepted
form is called in messages, so each place that can be wrong has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from entitlement_sidecar.domain.errors import CatalogueProblem
from entitlement_sidecar.wire.yaml_source import Path, YamlDocument

_SHOWN = 40
"""Most characters of a wrong value that a message repeats."""

_LATER_NAME = "later"
_LATER = {"$ref": f"#/$defs/{_LATER_NAME}"}
"""Of what a later version accepts: `catalogue_checks` refuses it, and no message offers it."""


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of catalogue and snapshot documents."""
    text = files("entitlement_sidecar.wire").joinpath("catalogue.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def published() -> str:
    """The schema as text, as editors get it: without what only a later version accepts."""
    return json.dumps(_offered(schema()), indent=2, ensure_ascii=False) + "\n"


def _offered(form: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(form, list):
        return [_offered(item) for item in form]
    if not isinstance(form, dict):
        return form
    return {key: _offered(item) for key, item in form.items() if item != _LATER and key != _LATER_NAME}


@cache
def _validator() -> Any:  # noqa: ANN401 - jsonschema's validators are built at run time
    # JSON Schema takes 10.0 for an integer; quantities are integers as written.
    checker = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    build: Any = extend
    return build(Draft202012Validator, {"pattern": _whole}, type_checker=checker)(schema())


def _whole(_: object, pattern: str, value: object, __: object) -> Iterator[ValidationError]:
    # Python's `$` lets a line break follow; a key with one is another key.
    if isinstance(value, str) and not re.fullmatch(pattern.removeprefix("^").removesuffix("$"), value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def shape_problems(document: YamlDocument) -> Iterator[CatalogueProblem]:
    """Every place where the document is not what the schema accepts."""
    for error in _validator().iter_errors(document.data):
        yield from _problems(document, error)


def _problems(document: YamlDocument, error: Any) -> Iterator[CatalogueProblem]:  # noqa: ANN401 - of jsonschema
    path: Path = tuple(error.absolute_path)
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            allowed = [key for key, form in known.items() if form != _LATER]
            for key in error.instance.keys() - known.keys():
                yield document.problem((*path, key), unknown(key, allowed), at_key=True)
        case "required":
            key = error.message.split("'")[1]
            yield document.problem(path, f"{key!r} is missing: expected {_accepted(error)}", at_key=True)
        case _ if "propertyNames" in error.absolute_schema_path:
            yield document.problem((*path, error.instance), _not_accepted(error), at_key=True)
        case _:
            yield document.problem(path, _not_accepted(error))


def unknown(name: str, allowed: Any) -> str:  # noqa: ANN401 - any collection of names
    """Says that a name is unknown, which one may have been meant, and what is allowed."""
    close = get_close_matches(name, sorted(allowed)[:1000], n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    some = sorted(allowed)
    listed = ", ".join(some[:20]) + (", …" if len(some) > 20 else "")  # noqa: PLR2004 - as many as fit a line or two
    return f"{name[:_SHOWN]!r} is not known{meant}; allowed: {listed or 'none is declared'}"


def _not_accepted(error: Any) -> str:  # noqa: ANN401
    return f"{shown(error.instance)} is not accepted: expected {_accepted(error)}"


def _accepted(error: Any) -> str:  # noqa: ANN401
    return str(error.schema.get("description", error.message))


def shown(value: Any) -> str:  # noqa: ANN401 - any plain value
    """A value as a message repeats it, cut short."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list" if value else "an empty list"
        case bool():
            return str(value).lower()
        case str():
            return repr(value[:_SHOWN] + ("…" if len(value) > _SHOWN else ""))
        case _:
            return str(value)
