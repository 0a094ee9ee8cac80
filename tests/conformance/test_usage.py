"""Every case of usage, against the registry alone and against a running sidecar."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
import pytest

from entitlement_sidecar.domain.ruling import Registry, RuleName
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.sidecar.bootstrap import build
from entitlement_sidecar.sidecar.config import FrontKind, SidecarConfig
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.wire.codec import event_from_proto, from_timestamp, result_from_proto
from entitlement_sidecar.wire.v1 import usage_pb2, usage_pb2_grpc
from support.usage_cases import FILES, Arriving, UsageCase, told, usage_concept

CASES = [case for path in FILES for case in usage_concept(path).cases]

NEEDS_MORE = {RuleName.MALFORMED, RuleName.IDENTITY}
"""What is judged without the registry: the form of an event, and whether it came before."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_registry(path: Path) -> None:
    """The registry's word is what a sidecar says, where an event alone tells it."""
    whole = usage_concept(path)
    registry = Registry(whole.catalogue.document(1))
    asked = [
        case
        for case in whole.cases
        if case.expected(at_sidecar=True)[1] not in NEEDS_MORE and not case.event().message.corrects
    ]
    for case in asked:
        event = event_from_proto(case.event().message)
        ruling = registry.judge(event)
        result = UsageResult(event.id, ruling.outcome, "", False, ruling.rule, 1, ruling.classification)
        assert told(result) == case.expected(at_sidecar=True), f"{case.name}: {ruling.reason}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_sidecar(path: Path, tmp_path: Path) -> None:
    """What services are told over the wire, each by a tenant of its own."""
    whole = usage_concept(path)
    file = tmp_path / "tenants.yaml"
    file.write_text(whole.text)
    clock = FakeClock(datetime(1970, 1, 2, tzinfo=UTC))
    config = SidecarConfig(
        listen="127.0.0.1:0",
        http="127.0.0.1:0",
        state_dir=tmp_path / "state",
        snapshot_file=file,
        front=FrontKind.AIO,
    )
    sidecar = await build(config, clock)
    try:
        address = await sidecar.front.start()
        async with grpc.aio.insecure_channel(address) as channel:
            service = usage_pb2_grpc.UsageServiceStub(channel)
            for case in filter(_can_be_reported, whole.cases):
                *_, result = [await _report(service, clock, one) for one in (*case.before(), case.event())]
                assert told(result) == case.expected(at_sidecar=True), f"{case.name}: {result.reason}"
    finally:
        await sidecar.front.stop()
        await sidecar.close()


def _can_be_reported(case: UsageCase) -> bool:
    return all(one.can_be_reported for one in (*case.before(), case.event()))


async def _report(
    service: usage_pb2_grpc.UsageServiceStub, clock: FakeClock, arriving: Arriving
) -> UsageResult:
    clock.jump((from_timestamp(arriving.message.recorded_at) - clock.now()).total_seconds())
    request = usage_pb2.ReportUsageRequest(events=[arriving.message])
    response = await service.ReportUsage(request, timeout=30)
    return result_from_proto(response.results[0])


def test_intents_are_their_own() -> None:
    """Each case says its own rule."""
    intents = [(case.concept, case.raw["intent"]) for case in CASES]
    assert len(set(intents)) == len(intents)


def test_every_outcome_is_expected_somewhere() -> None:
    """An outcome that nobody expects is one that nobody has thought about."""
    expected = {case.expected(at_sidecar=side)[0] for case in CASES for side in (True, False)}
    assert expected == {outcome.name for outcome in UsageOutcome}
