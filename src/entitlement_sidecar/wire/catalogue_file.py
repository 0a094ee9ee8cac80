"""What people write: plans as configuration, in YAML (S1.2).

    text ── read_yaml ──▶ plain data + places ── shape, meaning ──▶ every problem │ catalogue

A *catalogue file* says what a business sells; a *snapshot file* (`snapshot_file`) adds `tenants`.
`docs/reference/catalogue.md` describes the format.
"""

from __future__ import annotations

from pathlib import Path

from entitlement_sidecar.domain.catalogue import (
    Catalogue,
)
from entitlement_sidecar.domain.errors import CatalogueError, CatalogueProblem, InvalidInputError
from entitlement_sidecar.wire.catalogue_build import build_catalogue
from entitlement_sidecar.wire.catalogue_checks import meaning_problems
from entitlement_sidecar.wire.catalogue_schema import shape_problems
from entitlement_sidecar.wire.yaml_source import MAX_BYTES, YamlDocument, read_yaml, too_large


def load_catalogue(path: Path) -> Catalogue:
    """Reads a catalogue file.

    Raises:
        CatalogueError: Something in it is wrong; lists everything, with line and column.
        InvalidInputError: The file cannot be read.
    """
    return parse_catalogue(text_of(path), str(path))


def parse_catalogue(text: str, source: str) -> Catalogue:
    """Reads a catalogue; `source` is what messages call it.

    Raises:
        CatalogueError: Something in it is wrong; lists everything, with line and column.
    """
    document = checked_document(text, source, tenants=False)
    return build_catalogue(document)


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        CatalogueError: It is too large or not UTF-8.
        InvalidInputError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInputError.of(str(path), f"cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise CatalogueError(str(path), [CatalogueProblem(1, 1, "", too_large())])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        problem = CatalogueProblem(line, column, "", "not UTF-8: save the file as UTF-8")
        raise CatalogueError(str(path), [problem]) from error


def checked_document(text: str, source: str, *, tenants: bool) -> YamlDocument:
    """A document in which nothing is wrong; `tenants`: a snapshot file is accepted too.

    Raises:
        CatalogueError: Something is wrong; lists everything, with line and column.
    """
    document = read_yaml(text, source)
    problems = [*document.problems, *shape_problems(document), *meaning_problems(document)]
    if not tenants and isinstance(document.data, dict) and "tenants" in document.data:
        message = "tenants belong in a snapshot file: subscribe tenants through the plan store"
        problems.append(document.problem(("tenants",), message, at_key=True))
    if problems:
        raise CatalogueError(source, sorted(set(problems), key=lambda p: (p.line, p.column, p.path)))
    return document
