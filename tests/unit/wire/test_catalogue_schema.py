"""The schema that editors get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from entitlement_sidecar.wire.catalogue_schema import published

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads(published())
SHIPPED = sorted(
    path
    for folder in ("examples", "src", "conformance", "benchmarks", "tests/e2e")
    for path in (ROOT / folder).rglob("*.y*ml")
    if path.read_text("utf-8").startswith(("catalogue:", "# ")) and "\nfeatures:" in path.read_text("utf-8")
)


def forms(form: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of every mapping, with its path."""
    if isinstance(form, dict):
        if isinstance(form.get("properties"), dict) and form.get("type") == "object":
            yield from ((f"{path}.{name}", value) for name, value in form["properties"].items())
        for name, value in form.items():
            yield from forms(value, f"{path}.{name}")
    elif isinstance(form, list):
        for item in form:
            yield from forms(item, path)


def test_it_is_a_schema() -> None:
    """Of the draft that it names, with an example that it accepts."""
    Draft202012Validator.check_schema(SCHEMA)
    for example in SCHEMA["examples"]:
        Draft202012Validator(SCHEMA).validate(example)


def test_every_field_says_what_it_means() -> None:
    """An editor shows something at each field."""
    found = dict(forms(SCHEMA))
    assert len(found) > 50
    assert [path for path, form in found.items() if not form.get("description")] == []


def test_every_example_of_a_field_is_accepted() -> None:
    """What an editor offers is right."""
    for path, form in forms(SCHEMA):
        whole = {"$defs": SCHEMA["$defs"], **form}
        for example in form.get("examples", ()):
            assert list(Draft202012Validator(whole).iter_errors(example)) == [], path


def test_nothing_is_offered_that_is_refused() -> None:
    """What only a later version accepts is not in it."""
    assert "overage_price" not in published()


def test_it_is_committed() -> None:
    """The page that editors are pointed at is what the command prints."""
    assert (ROOT / "docs/reference/catalogue.schema.json").read_text("utf-8") == published()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_files_are_accepted(path: Path) -> None:
    """Every catalogue and snapshot file of the repository."""
    document = yaml.safe_load(path.read_text("utf-8"))
    assert [error.message for error in Draft202012Validator(SCHEMA).iter_errors(plain(document))] == []


def plain(value: Any) -> Any:
    """YAML 1.1's dates as the text that they are in a catalogue."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else value
