"""What a catalogue would change, field by field, in the words of its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import Catalogue
from entitlement_sidecar.domain.values import alike
from entitlement_sidecar.wire import catalogue_dump, catalogue_registry

EMPTY = Catalogue("", {}, {}, {}, {})
"""What is in force before the first catalogue."""

_Plain = Callable[[Any], Mapping[str, Any]]


class FieldChange(msgspec.Struct, frozen=True):
    """One field of something that changes. None: it is not there."""

    path: str
    old: Any
    new: Any


class Difference(msgspec.Struct, frozen=True):
    """One feature, metric, plan or add-on that changes.

    `section` is that of the file, `change` is `added`, `changed` or `retired`; `fields` are of what changed.
    `label` is the plan's or add-on's version afterwards, `code@version`, where it gets another one.
    """

    section: str
    key: str
    change: str
    fields: tuple[FieldChange, ...] = ()
    label: str = ""


def compare(before: Catalogue, after: Catalogue) -> list[Difference]:
    """What differs between two catalogues, in the order of their file."""
    found: list[Difference] = []
    for section, old, new in _sections(before, after):
        found += [_difference(section, key, old, new) for key in new if not alike(old.get(key), new[key])]
        found += [Difference(section, key, "retired") for key in old if key not in new]
    return found + _order(before, after)


def _sections(
    before: Catalogue, after: Catalogue
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    for section, plain in (("features", _feature), ("metrics", _metric)):
        yield section, _all(getattr(before, section), plain), _all(getattr(after, section), plain)
    for section in ("plans", "add_ons"):
        yield (
            section,
            _all(getattr(before, section), _granting(section, before)),
            _all(getattr(after, section), _granting(section, after)),
        )
    earlier, later = _registry(before), _registry(after)
    for section, entries in later.items():
        yield section, _all(earlier[section], dict), _all(entries, dict)


def _registry(catalogue: Catalogue) -> dict[str, dict[str, Any]]:
    """What a catalogue says of usage beside its metrics, by section and key."""
    write = catalogue_registry
    return {
        "emitters": {key: write.plain_emitter(one, complete=True) for key, one in catalogue.emitters.items()},
        "rules": {one.key: write.plain_rule(one, complete=True) for one in catalogue.rules},
        "task_metrics": {
            part: {"metric": metric} for part, metric in write.plain_tasks(catalogue.task_metrics).items()
        },
        "retention": {
            name: {"kept": length} for name, length in write.plain_retention(catalogue.retention).items()
        },
    }


def _order(before: Catalogue, after: Catalogue) -> list[Difference]:
    """Rules that are in both and are tried in another order: the first that holds decides."""
    old, new = [one.key for one in before.rules], [one.key for one in after.rules]
    stayed, staying = [key for key in old if key in new], [key for key in new if key in old]
    moved = [key for key, other in zip(staying, stayed, strict=True) if key != other]
    return [
        Difference("rules", key, "changed", (FieldChange("order", old.index(key) + 1, new.index(key) + 1),))
        for key in moved
    ]


def _all(items: Mapping[str, Any], plain: _Plain) -> Mapping[str, Any]:
    return {key: dict(_flat(plain(item))) for key, item in items.items()}


def _feature(item: Any) -> Mapping[str, Any]:  # noqa: ANN401 - of the section
    return catalogue_dump.plain_feature(item, complete=True)


def _metric(item: Any) -> Mapping[str, Any]:  # noqa: ANN401
    return catalogue_registry.plain_metric(item, complete=True)


def _granting(section: str, catalogue: Catalogue) -> _Plain:
    write = catalogue_dump.plain_plan if section == "plans" else catalogue_dump.plain_add_on
    return lambda item: write(item, catalogue.features, complete=True)


def _difference(section: str, key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Difference:
    if key not in old:
        return Difference(section, key, "added")
    before, after = old[key], new[key]
    paths = [*before, *(path for path in after if path not in before)]
    fields = [
        FieldChange(path, before.get(path), after.get(path))
        for path in paths
        if not alike(before.get(path), after.get(path))
    ]
    return Difference(section, key, "changed", tuple(fields))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - plain data of a file
    """Every value with its path; limits are told apart by their windows, not by where they stand."""
    if isinstance(value, dict) and not _is_window(value):
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for item in value:
            soft = ", soft" if item.get("soft") else ""
            yield from _flat(item, f"{path}[{_window_text(item['window'])}{soft}]")
    else:
        yield path, _window_text(value) if isinstance(value, dict) else _plain(value)


def _is_window(value: Mapping[str, Any]) -> bool:
    return "unit" in value and value.keys() <= {"unit", "zone", "week_start"}


def _window_text(window: str | Mapping[str, str]) -> str:
    return window if isinstance(window, str) else " ".join(window.values())


def _plain(value: Any) -> Any:  # noqa: ANN401
    return str(value) if isinstance(value, str) else value
