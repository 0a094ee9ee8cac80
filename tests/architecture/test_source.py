"""Rules of the source that no linter holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/entitlement_sidecar"
GENERATED = SOURCE / "wire/v1"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
GREW_WITHOUT_END = {"utils.py", "helpers.py", "common.py", "misc.py", "service.py", "manager.py"}

# An install from a lock asks whatever registry the installer is set up with, so the lock names none.
REGISTRY = re.compile(
    r"--(extra-)?index-url|--find-links|https?://\S*(/simple|/pypi|artifactory|nexus)", re.IGNORECASE
)


def modules() -> Iterator[Path]:
    """Every file of the package that people write."""
    for path in SOURCE.rglob("*.py"):
        if GENERATED not in path.parents:
            yield path


def test_files_stay_short() -> None:
    """A file that passes 400 lines holds more than one concept."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in modules()}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_stay_short() -> None:
    """A function that passes 60 lines does more than one thing."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_files_are_named_by_concept() -> None:
    """A file without a concept grows without end."""
    assert [str(path) for path in modules() if path.name in GREW_WITHOUT_END] == []


def test_every_package_teaches_itself() -> None:
    """The first thing in a package is what it is about."""
    silent = [
        str(path.relative_to(ROOT))
        for path in modules()
        if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_no_registry_is_committed() -> None:
    """The locks and the build name no registry's address."""
    files = [*ROOT.glob("requirements/*"), ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / "Dockerfile"]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line}"
        for path in files
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if REGISTRY.search(line)
    ]
    assert found == []


def test_the_data_plane_imports_no_control_plane() -> None:
    """Starting a sidecar, or using the client, loads neither SQLAlchemy nor FastAPI."""
    script = (
        "import sys, entitlement_sidecar.cli.main, entitlement_sidecar.sidecar.process, "
        "entitlement_sidecar.client;"
        "print(*sorted({'sqlalchemy', 'fastapi', 'alembic', 'psycopg', 'pydantic'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_decoders_are_made_before_there_are_threads() -> None:
    """Two threads that make msgspec's first decoder of a type at once can end the process (SIGSEGV).

    So processes with threads make theirs when a module is imported. Commands have one thread.
    """
    late = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules()
        if path.relative_to(SOURCE).parts[0] != "cli"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"msgspec.json.decode", "msgspec.convert"}
        and any(keyword.arg == "type" for keyword in node.keywords)
    ]
    assert late == []
