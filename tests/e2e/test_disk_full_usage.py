"""A disk that is full: checks are as ever, and each metric says what becomes of its usage."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from entitlement_sidecar.wire.v1 import decision_pb2, usage_pb2
from support.processes import Sidecar
from support.waiting import until

CATALOGUE = """
catalogue: full
metrics:
  strict: {domain: tests, unit: call}
  patient: {domain: tests, unit: call, when_full: block}
  open: {domain: tests, unit: call, when_full: allow_unmetered}
features:
  sso: {kind: boolean}
  desks: {kind: seats}
  strict: {kind: metered, metric: strict}
  patient: {kind: metered, metric: patient}
  open: {kind: metered, metric: open}
plans:
  all:
    price: {amount: "1.00", currency: EUR}
    billing_period: month
    entitlements:
      sso: true
      desks: {seats: 3}
      strict: {limits: [{amount: 1000, window: year}]}
      patient: {limits: [{amount: 1000, window: year}]}
      open: {limits: [{amount: 1000, window: year}]}
tenants:
  acme: {plan: all}
"""

Free = Callable[[], None]

_UNMETERED = decision_pb2.WARNING_KIND_USAGE_UNMETERED


@pytest.fixture(params=["fast", "aio"])
def beside(tmp_path: Path, ending: ExitStack, request: pytest.FixtureRequest) -> Sidecar:
    """A sidecar with a metered feature of each policy."""
    file = tmp_path / "tenants.yaml"
    file.write_text(CATALOGUE)
    started = Sidecar(tmp_path / "sidecar", "--snapshot-file", str(file), front=request.param)
    ending.callback(started.kill)
    return started.start()


@pytest.fixture
def free(beside: Sidecar) -> Free:
    """The disk is full; called, it is no more."""
    assert beside.process is not None
    pid = beside.process.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))

    def free() -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))

    return free


def refused(call: Callable[[], object]) -> str:
    """What a caller is told whose usage cannot be kept."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details: str = caught.value.details()
    return details


def reports(beside: Sidecar, metric: str) -> list[usage_pb2.UsageResult]:
    """One event of a metric."""
    event = usage_pb2.UsageEvent(tenant_id="acme", metric=metric, value=1, correlation_id="job")
    return beside.report([event])


def used(beside: Sidecar, feature: str) -> int:
    """What is counted of a feature."""
    return beside.check("acme", feature).used


def test_each_policy(beside: Sidecar, free: Free) -> None:
    """Refused, waited for in vain, or allowed and said; checks and seats need no disk; later all is well."""
    assert beside.check("acme", "sso").allowed
    assert beside.consume("acme", "desks", subject="ada").allowed

    for metric in ("strict", "patient"):
        assert "full or failing" in refused(lambda metric=metric: beside.consume("acme", metric))
    for metric in ("strict", "patient", "open"):
        assert "full or failing" in refused(lambda metric=metric: reports(beside, metric))

    decision = beside.consume("acme", "open", quantity=3)
    assert (decision.allowed, decision.consumption_id) == (True, "")
    assert [(one.kind, one.detail) for one in decision.warnings] == [(_UNMETERED, "open")]
    assert beside.metric("entitlement_unmetered_total") == 1
    assert beside.metric("entitlement_outbox_refused_total") > 0

    free()
    for feature in ("strict", "patient", "open"):
        kept = until(lambda feature=feature: kept_now(beside, feature), "room again", timeout=60)
        assert (kept.allowed, kept.warnings) == (True, [])


def kept_now(beside: Sidecar, feature: str) -> Any:
    """The answer to a CONSUME once it is kept; until then None."""
    try:
        decision = beside.consume("acme", feature)
    except grpc.RpcError:
        return None
    return decision if decision.consumption_id else None


def test_nothing_is_admitted_that_cannot_be_kept(beside: Sidecar, free: Free) -> None:
    """Callers that try again do not use up a limit while the disk is full."""
    for _ in range(50):
        refused(lambda: beside.consume("acme", "strict"))
    free()
    # One is found out with, each second.
    assert used(beside, "strict") <= 25
