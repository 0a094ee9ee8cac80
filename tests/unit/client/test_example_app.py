"""The example service, as a caller sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from entitlement_sidecar.client import Answer, Decision, EntitlementsClient, InvalidInputError, Reason
from entitlement_sidecar.wire.v1 import decision_pb2
from support.answering import AnsweringSidecar, answering

APP = Path(__file__).parents[3] / "examples" / "app" / "app.py"


@pytest.fixture(scope="module")
def app() -> ModuleType:
    """The example, imported from where it is."""
    spec = spec_from_file_location("example_app", APP)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def serving(app: ModuleType, target: str) -> Iterator[httpx.Client]:
    """The service on a free port, and a caller of it."""
    with EntitlementsClient(target, timeout=10, if_unreachable=Answer.ALLOW) as entitlements:
        server = app.ReportServer(("127.0.0.1", 0), entitlements)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", timeout=20) as caller:
                yield caller
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def counting(limit: int) -> AnsweringSidecar:
    """A judge that allows so many consumptions, each request id once."""
    seen: set[str] = set()

    def judge(request: decision_pb2.CheckEntitlementRequest) -> Decision:
        if not request.tenant_id:
            raise InvalidInputError.of("tenant_id", "is required")
        if request.request_id not in seen and len(seen) >= limit:
            reset = datetime(2026, 2, 1, tzinfo=UTC)
            return Decision(allowed=False, reason=Reason.QUOTA_EXCEEDED, limit=limit, reset_at=reset)
        seen.add(request.request_id)
        return Decision(allowed=True, reason=Reason.WITHIN_LIMIT, limit=limit, remaining=limit - len(seen))

    return AnsweringSidecar(judge)


def test_it_serves_until_the_tasks_are_used_up(app: ModuleType) -> None:
    """Each request is one check and one task; a retry with the same id is not another."""
    with answering(counting(2).judge) as sidecar, serving(app, sidecar.target) as caller:
        headers = {"X-Tenant": "acme", "X-Request-Id": "r1"}
        replies = [caller.get("/reports/weekly", headers=headers) for _ in range(2)]
        replies += [caller.get("/reports/weekly", headers={"X-Tenant": "acme"}) for _ in range(2)]

    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    assert [reply.json().get("tasks_left") for reply in replies[:3]] == [1, 1, 0]
    assert replies[3].json() == {
        "error": "QUOTA_EXCEEDED",
        "limit": 2,
        "more_at": "2026-02-01T00:00:00+00:00",
    }
    assert len(sidecar.checks) == 4


@pytest.mark.parametrize(
    ("reason", "status"),
    [(Reason.NOT_IN_PLAN, 402), (Reason.SUBSCRIPTION_ENDED, 402), (Reason.TENANT_UNKNOWN, 403)],
)
def test_it_says_why_not(app: ModuleType, reason: Reason, status: int) -> None:
    """Each reason has a status that its caller understands."""
    with (
        answering(lambda _: Decision(allowed=False, reason=reason)) as sidecar,
        serving(app, sidecar.target) as caller,
    ):
        reply = caller.get("/reports/weekly", headers={"X-Tenant": "acme"})

    assert (reply.status_code, reply.json()["error"]) == (status, reason.name)


def test_a_malformed_request_is_named(app: ModuleType) -> None:
    """Without a tenant there is nothing to judge."""
    with answering(counting(1).judge) as sidecar, serving(app, sidecar.target) as caller:
        reply = caller.get("/reports/weekly")
        elsewhere = caller.get("/")

    assert (reply.status_code, elsewhere.status_code) == (400, 404)
    assert "tenant_id" in reply.json()["error"]


def test_it_goes_on_without_a_sidecar(app: ModuleType) -> None:
    """It has declared that it would rather serve."""
    with serving(app, "127.0.0.1:1") as caller:
        assert caller.get("/reports/weekly", headers={"X-Tenant": "acme"}).status_code == 200
