"""Everything that REST can do, the command line can do: each operation has a command that calls it."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from entitlement_sidecar.cli.main import run
from entitlement_sidecar.cli.operations import OPERATIONS
from entitlement_sidecar.planstore.api import openapi
from entitlement_sidecar.planstore.api.app import create_app
from support.shop import CATALOGUE

DOCUMENT = create_app(openapi.absent_dependencies()).openapi()
DECLARED = {operation["operationId"]: operation for _, _, operation in openapi.operations(DOCUMENT)}
WORDS = {"TENANT": "acme", "FEATURE": "calls", "AMOUNT": "5", "PLAN": "basic", "SUBJECT": "user-7"}
"""What stands for an argument; others stand for themselves."""

Asked = dict[str, Any]


@functools.cache
def routes() -> list[tuple[str, re.Pattern[str], dict[str, Any]]]:
    """Method, what its path looks like, and the operation; the most particular first."""
    found = sorted(openapi.operations(DOCUMENT), key=lambda one: (one[0].count("{"), one[0]))
    return [
        (method.upper(), re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))), operation)
        for path, method, operation in found
    ]


class Handler(BaseHTTPRequestHandler):
    """Answers each operation with its own example, and notes which was called with what."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        operation = next(
            one for method, form, one in routes() if method == self.command and form.fullmatch(path)
        )
        self.server.asked[operation["operationId"]] = body  # type: ignore[attr-defined]
        status, answer = next((int(s), a) for s, a in operation["responses"].items() if s.startswith("2"))
        kind, content = next(iter(answer["content"].items()))
        example = content["example"]
        if isinstance(example, dict) and "next_cursor" in example:
            example = {**example, "next_cursor": None}
        text = example if isinstance(example, str) and kind != "application/json" else json.dumps(example)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the server's names

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """What commands take for the plan store."""
    token = tmp_path / "token"
    token.write_text("of-this-test\n")
    token.chmod(0o600)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as started:
        started.asked = {}  # type: ignore[attr-defined]
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("ENTITLEMENTS_PLANSTORE_URL", f"http://127.0.0.1:{started.server_port}")
        monkeypatch.setenv("ENTITLEMENTS_TOKEN_FILE", str(token))
        yield started
        started.shutdown()
        thread.join()


def test_every_operation_has_a_command() -> None:
    """No operation is missing, and none is named that is gone."""
    assert sorted(set(DECLARED) - set(OPERATIONS)) == []
    assert sorted(set(OPERATIONS) - set(DECLARED)) == []


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_its_command_calls_it(server: ThreadingHTTPServer, name: str, tmp_path: Path) -> None:
    """The command asks the plan store for it, in the form that the document declares."""
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(CATALOGUE)
    events = tmp_path / "events.jsonl"
    events.write_text('{"tenant_id": "acme", "metric": "calls", "value": 1}\n')
    words = WORDS | {"FILE": str(catalogue), "OUT": str(tmp_path / "out"), "EVENTS": str(events)}
    code = run([words.get(word, word) for word in OPERATIONS[name].split()])
    asked: dict[str, bytes] = server.asked  # type: ignore[attr-defined]
    assert code in {0, 1}
    assert name in asked
    content = DECLARED[name].get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        jsonschema.validate(json.loads(asked[name]), schema)
