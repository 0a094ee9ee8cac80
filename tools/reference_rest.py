"""The reference page of REST, and the OpenAPI document itself, from the application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from entitlement_sidecar.cli.operations import OPERATIONS
from entitlement_sidecar.planstore.api import openapi
from entitlement_sidecar.planstore.api.app import create_app

HEAD = """# REST

Every operation of the plan store, the command that calls it, and the problems that it answers.

Written by `make generate` from the OpenAPI document, [openapi.json](openapi.json), which a plan store serves
at `/openapi.json` and `entitlements planstore openapi` prints. [The guide](../rest.md) tells how to call it.

`…` is `/api/billing/organizations/{tenant_id}`. Every operation may also answer 401, 403, 422, 429 and 503.
"""


def document() -> dict[str, Any]:
    """The OpenAPI document of this version."""
    return create_app(openapi.absent_dependencies()).openapi()


def render() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_sections(document()), ""])


def render_document() -> str:
    """The document as a file."""
    return openapi.write_document(document())


def _sections(found: dict[str, Any]) -> Iterator[str]:
    tags: dict[str, list[str]] = {}
    for path, method, operation in openapi.operations(found):
        tags.setdefault(operation["tags"][0], []).append(_row(path, method, operation))
    for tag, rows in sorted(tags.items()):
        yield f"## {tag}\n\n| call | what it does | command | problems |\n|---|---|---|---|"
        yield "\n".join(rows) + "\n"


def _row(path: str, method: str, operation: dict[str, Any]) -> str:
    short = path.replace("/api/billing/organizations/{tenant_id}", "…").replace("|", "\\|")
    problems = [status for status in operation["responses"] if int(status) >= 400]  # noqa: PLR2004 - errors of HTTP
    usual = {"401", "403", "422", "429", "503"}
    told = ", ".join(status for status in problems if status not in usual)
    command = OPERATIONS[operation["operationId"]]
    return f"| `{method.upper()} {short}` | {operation['summary']} | `{command}` | {told} |"
