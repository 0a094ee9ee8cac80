"""YAML text to plain data that remembers where each piece stands.

Reads events, not nodes: what is nested too deeply or expands too far is refused while it is read. Scalars
are those of YAML 1.2's core schema, so that `no` and `2026-01-01` stay text.
"""

from __future__ import annotations

import math
import re
from collections import ChainMap
from collections.abc import Iterator
from typing import Any

import yaml

from entitlement_sidecar.domain.errors import CatalogueError, CatalogueProblem

MAX_BYTES = 8 * 1024 * 1024
"""Largest document, in bytes."""

MAX_VALUES = 100_000
"""Most values in a document, those that aliases repeat included."""

MAX_DEPTH = 32
"""Deepest nesting."""

Path = tuple[str | int, ...]
Place = tuple[int, int]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9](_?[0-9]){0,30}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NON_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class YamlDocument:
    """Plain data with the place of every value and key.

    Attributes:
        data: Mappings, lists, text, numbers, booleans and None.
        texts: How each number was written, for those that must stay exact.
        problems: What was wrong with the text itself, for example a key that stands twice.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.data: Any = None
        self.texts: dict[Path, str] = {}
        self.problems: list[CatalogueProblem] = []
        self._values: dict[Path, Place] = {}
        self._keys: dict[Path, Place] = {}

    def mark(self, path: Path, value: Any, key: Any = None) -> None:  # noqa: ANN401 - a parser's mark
        """Remembers where a value, and its key, begin."""
        self._values[path] = _place(value)
        if key is not None:
            self._keys[path] = _place(key)

    def problem(self, path: Path, message: str, *, at_key: bool = False) -> CatalogueProblem:
        """A problem at a path; at the nearest known place above it where the path does not exist."""
        places = ChainMap(self._keys, self._values) if at_key else ChainMap(self._values)
        line, column = next(
            (places[p] for n in range(len(path), -1, -1) if (p := path[:n]) in places), (1, 1)
        )
        return CatalogueProblem(line, column, dotted(path), message)


def dotted(path: Path) -> str:
    """A path for people: `plans.pro.entitlements.requests.limits[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read_yaml(text: str, source: str) -> YamlDocument:
    """Reads one YAML document.

    Raises:
        CatalogueError: It is not YAML, or is larger or deeper than accepted.
    """
    if len(text) > MAX_BYTES:
        raise CatalogueError(source, [CatalogueProblem(1, 1, "", too_large())])
    reader = _Reader(YamlDocument(source))
    try:
        reader.read(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        raise CatalogueError(source, [_syntax(error, text)]) from error
    return reader.document


def too_large() -> str:
    """Says how large a document may be."""
    return f"the document is larger than {MAX_BYTES // 1024 // 1024} MiB: split it"


def _place(mark: Any) -> Place:  # noqa: ANN401
    return mark.line + 1, mark.column + 1


def _syntax(error: yaml.YAMLError, text: str) -> CatalogueProblem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        what = getattr(error, "problem", None) or getattr(error, "context", None)
        return CatalogueProblem(*_place(mark), "", f"not YAML: {what}")
    before = text[: getattr(error, "position", 0) or 0]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return CatalogueProblem(line, column, "", "not YAML: a control character is not accepted here")


class _Reader:
    """Builds data from events, and stops where a bound is passed."""

    def __init__(self, document: YamlDocument) -> None:
        self.document = document
        self._events: Iterator[Any] = iter(())
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._count = 0

    def read(self, events: Iterator[Any]) -> None:
        self._events = events
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.document.data = self._value(next(events), ())
                break
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                raise self._stop(event, (), "one document per file: remove what follows `---`")

    def _stop(self, event: Any, path: Path, message: str) -> CatalogueError:  # noqa: ANN401
        problem = CatalogueProblem(*_place(event.start_mark), dotted(path), message)
        return CatalogueError(self.document.source, [*self.document.problems, problem])

    def _value(self, event: Any, path: Path, key: Any = None) -> Any:  # noqa: ANN401
        self.document.mark(path, event.start_mark, key)
        if len(path) > MAX_DEPTH:
            raise self._stop(event, path[:4], f"nested deeper than {MAX_DEPTH} levels")
        before = self._count
        self._add(event, path, 1)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        value = self._built(event, path)
        if event.anchor:
            self._anchors[event.anchor] = (value, self._count - before)
        return value

    def _add(self, event: Any, path: Path, values: int) -> None:  # noqa: ANN401
        self._count += values
        if self._count > MAX_VALUES:
            raise self._stop(
                event, path, f"more than {MAX_VALUES} values, aliases included: split the document"
            )

    def _alias(self, event: Any, path: Path) -> Any:  # noqa: ANN401
        if event.anchor not in self._anchors:
            raise self._stop(event, path, f"alias *{event.anchor} names nothing that is complete above it")
        value, size = self._anchors[event.anchor]
        self._add(event, path, size)
        return value

    def _built(self, event: Any, path: Path) -> Any:  # noqa: ANN401
        if isinstance(event, yaml.MappingStartEvent):
            self._refuse_tag(event, path, "tag:yaml.org,2002:map")
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            self._refuse_tag(event, path, "tag:yaml.org,2002:seq")
            return self._sequence(path)
        self._refuse_tag(event, path, "tag:yaml.org,2002:str")
        return self._scalar(event, path)

    def _refuse_tag(self, event: Any, path: Path, accepted: str) -> None:  # noqa: ANN401
        if event.tag not in (None, "!", accepted):
            self._report(path, f"tag {event.tag!r} is not accepted: write plain values")

    def _report(self, path: Path, message: str, *, at_key: bool = False) -> None:
        self.document.problems.append(self.document.problem(path, message, at_key=at_key))

    def _sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise self._stop(key, path, "a key must be plain text")
            value = self._value(next(self._events), (*path, key.value), key.start_mark)
            if key.value in members:
                self._report((*path, key.value), f"{key.value!r} stands twice: remove one", at_key=True)
            members[key.value] = value
        return members

    def _scalar(self, event: Any, path: Path) -> Any:  # noqa: ANN401
        text: str = event.value
        if event.style not in (None, "") or event.tag is not None:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _NON_FINITE.fullmatch(text):
            self._report(path, f"{text} is not a number that can be used: write a finite one")
            return 0
        return self._number(text, path)

    def _number(self, text: str, path: Path) -> Any:  # noqa: ANN401
        if _INT.fullmatch(text):
            self.document.texts[path] = text
            return int(text)
        if not _FLOAT.fullmatch(text):
            return text
        self.document.texts[path] = text
        number = float(text)
        if math.isfinite(number):
            return number
        self._report(path, f"{text[:40]} is too large for a number")
        return 0
