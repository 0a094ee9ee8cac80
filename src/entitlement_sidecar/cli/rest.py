"""The plan store's REST, as commands call it. Its problems (RFC 9457) become the product's errors."""

from __future__ import annotations

import json
import ssl
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from entitlement_sidecar.cli.output import printable
from entitlement_sidecar.domain import errors

TIMEOUT = 30.0
"""Seconds for one call."""

_ERRORS: dict[int, type[errors.EntitlementsError]] = {
    401: errors.UnauthenticatedError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    412: errors.StaleVersionError,
}
_ADVICE = {401: "--token-file names the file of it"}
"""What a command can add to what the plan store says."""

_FIRST_RETRYABLE = 500
_TOO_MANY = 429
_FIRST_ERROR = 300


def organization(tenant: str, rest: str, *below: str) -> str:
    """A path under one tenant. Each of `below` is one segment, whatever characters it has."""
    segments = "".join(f"/{quote(one, safe='')}" for one in below)
    return f"/api/billing/organizations/{quote(tenant, safe='')}/{rest}{segments}"


class PlanstoreRest:
    """One plan store. `reason` is why things are changed, for its audit log.

    Raises:
        ConfigurationError: The URL is not one.
    """

    def __init__(self, url: str, token: str, reason: str = "") -> None:
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            parts, self._host = urlsplit(""), ""
        if parts.scheme not in {"http", "https"} or not self._host or parts.username or parts.query:
            raise errors.ConfigurationError("--planstore: expected http://HOST:PORT or https://HOST[:PORT]")
        self._secure = parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._token = token
        self._reason = reason

    def get(self, path: str, **query: Any) -> Any:  # noqa: ANN401 - JSON
        """Reads one resource.

        Raises:
            EntitlementsError: By what the plan store answered, or because it did not.
        """
        return self._call("GET", _asking(path, query), None, "application/json")

    def post(self, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Changes one resource.

        Raises:
            EntitlementsError: By what the plan store answered, or because it did not.
        """
        return self._call("POST", path, json.dumps(body).encode(), "application/json")

    def post_yaml(self, path: str, text: str, **query: Any) -> Any:  # noqa: ANN401 - JSON
        """Sends a YAML document.

        Raises:
            EntitlementsError: By what the plan store answered, or because it did not.
        """
        return self._call("POST", _asking(path, query), text.encode(), "application/yaml")

    def get_text(self, path: str, **query: Any) -> str:  # noqa: ANN401 - what a query holds
        """Reads one resource that is text.

        Raises:
            EntitlementsError: By what the plan store answered, or because it did not.
        """
        reply, content = self._exchange("GET", _asking(path, query), None, "application/json")
        if reply.status >= _FIRST_ERROR:
            self._answer(reply, content)
        return content.decode("utf-8", "replace")

    def _call(self, method: str, path: str, body: bytes | None, kind: str) -> Any:  # noqa: ANN401 - JSON
        return self._answer(*self._exchange(method, path, body, kind))

    def _exchange(self, method: str, path: str, body: bytes | None, kind: str) -> tuple[HTTPResponse, bytes]:
        connection = (HTTPSConnection if self._secure else HTTPConnection)(
            self._host, self._port, timeout=TIMEOUT
        )
        headers: dict[str, str | bytes] = {
            "authorization": f"Bearer {self._token}",
            "accept": "application/json",
            "content-type": kind,
        }
        if self._reason and method != "GET":
            headers["x-reason"] = self._reason.encode()
        try:
            connection.request(method, self._prefix + path, body=body, headers=headers)
            reply = connection.getresponse()
            content = reply.read()
        except (OSError, HTTPException) as error:
            raise errors.SourceUnavailableError(f"{self._where()}: {_unheard(error)}") from error
        finally:
            connection.close()
        return reply, content

    def _where(self) -> str:
        return f"plan store at {self._host}:{self._port or (443 if self._secure else 80)}"

    def _answer(self, reply: HTTPResponse, content: bytes) -> Any:  # noqa: ANN401 - JSON
        try:
            answer = json.loads(content) if content else {}
        except ValueError:
            answer = None
        if reply.status >= _FIRST_ERROR:
            raise self._error(reply, answer if isinstance(answer, dict) else {})
        if answer is None:
            raise errors.SourceUnavailableError(
                f"{self._where()} answered what is not JSON: is the URL right?"
            )
        return answer

    def _error(self, reply: HTTPResponse, problem: dict[str, Any]) -> errors.EntitlementsError:
        message = _described(problem) or self._unexplained(reply)
        if reply.status in _ADVICE:
            message = f"{message}; {_ADVICE[reply.status]}"
        if seconds := reply.headers.get("retry-after"):
            message = f"{message}; try again in {seconds} s"
        if reply.status == _TOO_MANY or reply.status >= _FIRST_RETRYABLE:
            return errors.SourceUnavailableError(message)
        if problem.get("reason") == errors.LossesError.reason:
            return errors.LossesError(message, problem.get("losses", ()))
        kind = _ERRORS.get(reply.status)
        return kind(message) if kind else errors.InvalidInputError(_violations(problem, message))

    def _unexplained(self, reply: HTTPResponse) -> str:
        what = f"{self._where()} answered {reply.status} {printable(reply.reason)}"
        return what if reply.status >= _FIRST_RETRYABLE else f"{what}: is that the URL of its REST?"


def _unheard(error: OSError | HTTPException) -> str:
    """Why there is no answer, and what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS there ({error.reason}): should the URL begin with http://?"
    if isinstance(error, HTTPException):
        return "what answers there does not speak HTTP: is that the URL of its REST?"
    return f"{error.strerror or str(error) or type(error).__name__}; is it running?"


def _asking(path: str, query: dict[str, Any]) -> str:
    asked = {name: value for name, value in query.items() if value is not None}
    return path + (f"?{urlencode(asked)}" if asked else "")


def _violations(problem: dict[str, Any], message: str) -> list[errors.Violation]:
    found = [
        errors.Violation(str(item["field"]), str(item.get("description", "")))
        for item in problem.get("violations", ())
        if isinstance(item, dict) and "field" in item
    ]
    return found or [errors.Violation("request", message)]


def _described(problem: dict[str, Any]) -> str:
    return str(problem.get("detail") or problem.get("title") or "")
