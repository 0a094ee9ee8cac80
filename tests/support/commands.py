"""What tests of commands share: how a command ended, and a plan store's REST with prepared replies."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, read as JSON."""
        return json.loads(self.out)


Run = Callable[..., Result]


class Call(NamedTuple):
    """One REST call."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class AnsweringPlanstore(ThreadingHTTPServer):
    """Answers each call with the next prepared reply; the last one stays."""

    daemon_threads = True

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.replies: list[tuple[int, Any]] = [(200, {})]
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def reply(self, *replies: tuple[int, Any]) -> None:
        """Prepares replies: status, and JSON or bytes."""
        self.replies = list(replies)


class _Handler(BaseHTTPRequestHandler):
    server: AnsweringPlanstore

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.calls.append(Call(self.command, self.path, headers, body))
        replies = self.server.replies
        status, answer = replies.pop(0) if len(replies) > 1 else replies[0]
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer  # noqa: N815 - named by http.server

    def log_message(self, *_: object) -> None:
        """Says nothing."""
