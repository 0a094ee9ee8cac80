"""Every case that a snapshot file can tell, against a running sidecar, through each front.

The sidecar is whole, from the file to the socket; only its clock is the cases', and its file is looked at
when a case says that time has passed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc.aio
import pytest

from entitlement_sidecar.domain.decision import CheckRequest, Decision
from entitlement_sidecar.sidecar.bootstrap import Sidecar, build
from entitlement_sidecar.sidecar.config import FrontKind, SidecarConfig
from entitlement_sidecar.sidecar.snapshots.ports import Beat, Position
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.wire.codec import decision_from_proto, to_json
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc
from support.conformance import FILES, UNHEARD, Case, concept, mismatches, told

NOT_FROM_A_FILE = ("away", "newer", "break_glass")
"""What a sidecar that runs from a file alone cannot be in."""


class Running:
    """A sidecar and a client of it."""

    def __init__(self, sidecar: Sidecar, clock: FakeClock, channel: grpc.aio.Channel) -> None:
        self._sidecar = sidecar
        self._clock = clock
        self._stub = decision_pb2_grpc.EntitlementServiceStub(channel)

    def at(self, now: datetime, confirmed: datetime) -> None:
        """Sets the time, and when the file was last looked at."""
        self._clock.jump((now - self._clock.now()).total_seconds())
        self._sidecar.follower.apply(Beat(Position(0, "file", 1), confirmed))

    async def decide(self, request: CheckRequest) -> Decision:
        """One CheckEntitlement."""
        message = decision_pb2.CheckEntitlementRequest(
            tenant_id=request.tenant_id,
            feature=request.feature,
            quantity=request.quantity,
            mode=int(request.mode),
            subject=request.subject,
            request_id=request.request_id,
            requested_value_json=to_json(request.requested_value) if request.has_requested_value else None,
        )
        response = await self._stub.CheckEntitlement(message, timeout=10)
        return decision_from_proto(response.decision)


def runs(case: Case) -> bool:
    """Whether a sidecar can be put into what the case is about."""
    return case.raw.get("tenant") != UNHEARD and not any(name in case.raw for name in NOT_FROM_A_FILE)


async def outcome(running: Running, case: Case) -> list[str]:
    """What of one case is not as expected."""
    for at, request, admitted in case.uses():
        running.at(at, at)
        before = await running.decide(request)
        if before.allowed is not admitted:
            return [f"before: {before.reason.name}"]
    running.at(case.now, case.now - timedelta(seconds=case.raw.get("stale_for", 0)))
    return mismatches(case, told(await running.decide(case.request())))


@pytest.mark.parametrize("front", list(FrontKind))
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_concept(path: Path, front: FrontKind, tmp_path: Path) -> None:
    """Each case of one concept, through one front."""
    whole = concept(path)
    file = tmp_path / "tenants.yaml"
    file.write_text(whole.text)
    clock = FakeClock(datetime(1970, 1, 2, tzinfo=UTC))
    config = SidecarConfig(
        listen="127.0.0.1:0",
        http="127.0.0.1:0",
        state_dir=tmp_path / "state",
        snapshot_file=file,
        front=front,
    )
    sidecar = await build(config, clock)
    try:
        address = await sidecar.front.start()
        async with grpc.aio.insecure_channel(address) as channel:
            running = Running(sidecar, clock, channel)
            wrong = {case.name: await outcome(running, case) for case in whole.cases if runs(case)}
    finally:
        await sidecar.front.stop()
        await sidecar.close()
    assert not any(wrong.values()), "\n".join(
        f"{name}: {problem}" for name, problems in wrong.items() for problem in problems
    )
