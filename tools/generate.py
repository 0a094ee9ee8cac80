"""Writes every generated file, or with `--check` says which are not what they would be.

Generated are the code of the contract (`wire/v1`) and six reference pages: the contract, its decisions,
REST, the metrics, the outcomes of usage and the settings; the OpenAPI document; and the schema of catalogue
files for editors. All are committed, so that a reader and an install need no generator.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

import reference_contract
import reference_decisions
import reference_metrics
import reference_rest
import reference_settings
import reference_usage
from entitlement_sidecar.wire import catalogue_schema

ROOT = Path(__file__).parents[1]
PACKAGE = "entitlement_sidecar/wire/v1"

# The compiler's stubs leave out that a message takes an enum's number, which is how codecs give it.
ENUM_ARGUMENT = re.compile(r"(_Union\[[\w.]+, )str\]")


def protos() -> list[str]:
    """The contract's files, relative to `proto/`."""
    return sorted(f"{PACKAGE}/{path.name}" for path in (ROOT / "proto" / PACKAGE).glob("*.proto"))


def run_protoc(*outputs: str) -> None:
    """Runs the pinned compiler; raises RuntimeError when it refuses the contract."""
    well_known = resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}", *outputs, *protos()]
    if protoc.main(arguments):
        raise RuntimeError("protoc refused the contract, see above")


def generate_code(folder: Path) -> dict[str, str]:
    """What the compiler writes, by path from the repository's root."""
    run_protoc(f"--python_out={folder}", f"--pyi_out={folder}", f"--grpc_python_out={folder}")
    return {
        f"src/{path.relative_to(folder)}": ENUM_ARGUMENT.sub(r"\1int, str]", path.read_text("utf-8"))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def generate_pages(folder: Path) -> dict[str, str]:
    """The reference pages, by path from the repository's root."""
    description = folder / "contract.bin"
    run_protoc(f"--descriptor_set_out={description}", "--include_source_info")
    return {
        "docs/reference/decisions.md": reference_decisions.render(description.read_bytes()),
        "docs/reference/contract.md": reference_contract.render(description.read_bytes()),
        "docs/reference/metrics.md": reference_metrics.render(),
        "docs/reference/usage-outcomes.md": reference_usage.render(),
        "docs/reference/openapi.json": reference_rest.render_document(),
        "docs/reference/rest.md": reference_rest.render(),
        "docs/reference/configuration.md": reference_settings.render(),
        "docs/reference/catalogue.schema.json": catalogue_schema.published(),
    }


def generate() -> dict[str, str]:
    """Every generated file's text, by path from the repository's root."""
    with tempfile.TemporaryDirectory() as code, tempfile.TemporaryDirectory() as pages:
        return {**generate_code(Path(code)), **generate_pages(Path(pages))}


def stale(files: dict[str, str]) -> Iterator[str]:
    """Paths whose committed text is missing, differs, or is generated no more."""
    for name, text in files.items():
        path = ROOT / name
        if not path.is_file() or path.read_text("utf-8") != text:
            yield name
    for path in (ROOT / "src" / PACKAGE).glob("*_pb2*"):
        if (name := str(path.relative_to(ROOT))) not in files:
            yield name


def main() -> int:
    """Writes, or checks with `--check`; the exit status is 1 when something is stale."""
    files = generate()
    if sys.argv[1:] == ["--check"]:
        outdated = list(stale(files))
        for name in outdated:
            print(f"{name} is not what `make generate` writes")
        return 1 if outdated else 0
    for name, text in files.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
