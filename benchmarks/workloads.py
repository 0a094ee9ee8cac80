"""What is asked: 1,000 tenants of 20 features each, and the calls over them, verified by a real client.

The catalogue has ten boolean features and ten metered ones: five count on a durable metric (on disk,
fsync, before the answer) and five on a buffered one. Limits are far away, so that every answer is allowed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import msgspec

from entitlement_sidecar.wire.v1 import decision_pb2, usage_pb2

TENANTS = 1000
PLAN = "all"
"""The plan of every tenant."""

BATCH = 100

_BOOLEAN = tuple(f"flag-{number}" for number in range(10))
_DURABLE = tuple(f"durable-{number}" for number in range(5))
_BUFFERED = tuple(f"buffered-{number}" for number in range(5))
FEATURES = len(_BOOLEAN + _DURABLE + _BUFFERED)
"""Of each tenant."""

_FAR_AWAY = 10**12
_PLENTY = 200
"""Batches that are prepared; a batch names other tenants than its neighbours."""

_CHECK = "/entitlement.v1.EntitlementService/CheckEntitlement"
_BATCH_CHECK = "/entitlement.v1.EntitlementService/BatchCheckEntitlements"
_REPORT = "/entitlement.v1.UsageService/ReportUsage"

Verify = Callable[[bytes], None]
"""Raises `ValueError` when an answer is not what was asked for."""


class Workload(msgspec.Struct, frozen=True):
    """A kind of call.

    `per_call` is how many checks or events one carries, `keeps` how many events it leaves in the outbox.
    """

    name: str
    path: str
    bodies: Sequence[bytes]
    verify: Verify
    per_call: int = 1
    unit: str = "calls/s"
    keeps: int = 0

    def verify_on(self, address: str) -> None:
        """Makes one real call, and looks at what it answers.

        Raises:
            ValueError: The answer is wrong; says how.
            grpc.RpcError: The call failed.
        """
        with grpc.insecure_channel(address) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(self.path)
            answer = call(self.bodies[0], timeout=10, wait_for_ready=True)
        try:
            self.verify(answer)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error


def workloads() -> list[Workload]:
    """Every kind of call that is measured on a sidecar."""
    return [
        Workload("PEEK boolean", _CHECK, _checks(_BOOLEAN), _is_allowed),
        Workload("PEEK metered", _CHECK, _checks(_BUFFERED + _DURABLE), _is_allowed),
        *(_named(one, f"{one.name}, local authority") for one in consumes()),
        Workload(f"batch of {BATCH} PEEK boolean", _BATCH_CHECK, _batches(), _all_allowed, BATCH, "checks/s"),
        reports(),
    ]


def consumes(tenants: int = TENANTS) -> list[Workload]:
    """CONSUME by the first tenants, of features whose usage is buffered and of such where it is durable."""
    return [
        Workload(
            f"CONSUME {durability}",
            _CHECK,
            _checks(features, consume=True, tenants=tenants),
            _is_consumed,
            keeps=1,
        )
        for durability, features in (("buffered", _BUFFERED), ("durable", _DURABLE))
    ]


def _named(workload: Workload, name: str) -> Workload:
    return msgspec.structs.replace(workload, name=name)


def reports() -> Workload:
    """ReportUsage of a hundred durable events a call."""
    name = f"ReportUsage durable, {BATCH} a call"
    return Workload(name, _REPORT, _reports(), _all_accepted, BATCH, "events/s", keeps=BATCH)


def peek(degradation: int = decision_pb2.DEGRADATION_NONE) -> Workload:
    """PEEK boolean alone, whose answers say how well they are known."""

    def verify(answer: bytes) -> None:
        decision = decision_pb2.CheckEntitlementResponse.FromString(answer).decision
        if not decision.allowed or decision.degradation != degradation:
            raise ValueError(f"expected an allowed answer with degradation {degradation}, got: {decision}")

    return Workload("PEEK boolean", _CHECK, _checks(_BOOLEAN), verify)


def asks(tenant: str) -> decision_pb2.CheckEntitlementRequest:
    """A PEEK of a boolean feature."""
    return decision_pb2.CheckEntitlementRequest(tenant_id=tenant, feature=_BOOLEAN[0])


def echo(path: str) -> Workload:
    """The same requests as PEEK boolean, for a server that returns them."""
    bodies = _checks(_BOOLEAN)

    def same(answer: bytes) -> None:
        if answer != bodies[0]:
            raise ValueError("the echo answered with other bytes")

    return Workload("echo", path, bodies, same)


def write_snapshot_file(path: Path, tenants: int = TENANTS) -> None:
    """Writes the catalogue and its tenants, as a user would write them."""
    lines = [f"  {tenant_name(number)}: {{plan: {PLAN}}}" for number in range(tenants)]
    path.write_text("\n".join([*_catalogue_lines(), "tenants:", *lines]) + "\n")


def write_catalogue(path: Path) -> None:
    """Writes the catalogue alone, for a plan store."""
    path.write_text("\n".join(_catalogue_lines()) + "\n")


def _catalogue_lines() -> list[str]:
    lines = ["catalogue: benchmarks", "metrics:"]
    for metrics, durability in ((_DURABLE, "durable"), (_BUFFERED, "buffered")):
        shape = f"{{domain: bench, unit: call, durability: {durability}, feature: %s}}"
        lines += [f"  {metric}: {shape % metric}" for metric in metrics]
    lines.append("features:")
    lines += [f"  {feature}: {{kind: boolean}}" for feature in _BOOLEAN]
    lines += [f"  {feature}: {{kind: metered, metric: {feature}}}" for feature in _DURABLE + _BUFFERED]
    lines += [
        "plans:",
        f"  {PLAN}:",
        '    price: {amount: "1.00", currency: EUR}',
        "    billing_period: month",
    ]
    lines.append("    entitlements:")
    lines += [f"      {feature}: true" for feature in _BOOLEAN]
    limit = f"{{limits: [{{amount: {_FAR_AWAY}, window: month}}]}}"
    lines += [f"      {feature}: {limit}" for feature in _DURABLE + _BUFFERED]
    return lines


def tenant_name(number: int) -> str:
    """The tenant with a number, from 0."""
    return f"tenant-{number:04}"


def _checks(features: Sequence[str], *, consume: bool = False, tenants: int = TENANTS) -> list[bytes]:
    mode = decision_pb2.CHECK_MODE_CONSUME if consume else decision_pb2.CHECK_MODE_PEEK
    bodies = [
        decision_pb2.CheckEntitlementRequest(
            tenant_id=tenant_name(number),
            feature=feature,
            mode=mode,
            correlation_id="bench" if consume else "",
        ).SerializeToString()
        for number in range(tenants)
        for feature in features
    ]
    return _shuffled(bodies)


def _batches() -> list[bytes]:
    parse = decision_pb2.CheckEntitlementRequest.FromString
    checks = [parse(body) for body in _checks(_BOOLEAN)]
    return [
        decision_pb2.BatchCheckEntitlementsRequest(checks=checks[at : at + BATCH]).SerializeToString()
        for at in range(0, len(checks), BATCH)
    ]


def _reports() -> list[bytes]:
    # Without an id and a time each event is a new one, also when the same bytes come again.
    return [
        usage_pb2.ReportUsageRequest(
            events=[_event(batch * BATCH + number) for number in range(BATCH)]
        ).SerializeToString()
        for batch in range(_PLENTY)
    ]


def _event(number: int) -> usage_pb2.UsageEvent:
    return usage_pb2.UsageEvent(
        tenant_id=tenant_name(number % TENANTS),
        metric=_DURABLE[number % len(_DURABLE)],
        value=1,
        correlation_id=f"job-{number}",
        emitter="benchmarks",
    )


def _shuffled(bodies: list[bytes]) -> list[bytes]:
    random.Random(7).shuffle(bodies)  # noqa: S311 - an order, the same in each run
    return bodies


def _is_allowed(answer: bytes) -> None:
    _check_decision(decision_pb2.CheckEntitlementResponse.FromString(answer).decision)


def _is_consumed(answer: bytes) -> None:
    decision = decision_pb2.CheckEntitlementResponse.FromString(answer).decision
    _check_decision(decision)
    if not decision.consumption_id:
        raise ValueError("allowed, but nothing was consumed")


def _all_allowed(answer: bytes) -> None:
    results = decision_pb2.BatchCheckEntitlementsResponse.FromString(answer).results
    if len(results) != BATCH:
        raise ValueError(f"{len(results)} answers to {BATCH} checks")
    for result in results:
        _check_decision(result.decision)


def _check_decision(decision: decision_pb2.Decision) -> None:
    if not decision.allowed or decision.degradation != decision_pb2.DEGRADATION_NONE:
        raise ValueError(f"expected an allowed answer that is not degraded, got: {decision}")


def _all_accepted(answer: bytes) -> None:
    results = usage_pb2.ReportUsageResponse.FromString(answer).results
    refused = [result for result in results if result.outcome != usage_pb2.USAGE_OUTCOME_ACCEPTED]
    if len(results) != BATCH or refused:
        raise ValueError(f"{len(results)} outcomes for {BATCH} events; not accepted: {refused[:1]}")
