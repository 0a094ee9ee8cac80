"""UsageService: parse, call, map. No rule, no storage."""

from __future__ import annotations

import msgspec

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.sidecar.rpc.front import Method
from entitlement_sidecar.sidecar.rpc.permit import Permit
from entitlement_sidecar.sidecar.rpc.requests import parse_message
from entitlement_sidecar.sidecar.rpc.usage_requests import parse_correction, parse_task
from entitlement_sidecar.sidecar.usage.corrections import Corrections
from entitlement_sidecar.sidecar.usage.pseudonyms import Pseudonyms
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.sidecar.usage.tasks import TaskRecorder
from entitlement_sidecar.wire.codec import result_to_proto
from entitlement_sidecar.wire.v1 import usage_pb2

_SERVICE = "/entitlement.v1.UsageService/"


class UsageTaking(msgspec.Struct, frozen=True):
    """What takes usage: reports, tasks, corrections. `pseudonyms` None: names are kept as they come."""

    reporter: UsageReporter
    tasks: TaskRecorder
    corrections: Corrections
    clock: Clock
    pseudonyms: Pseudonyms | None = None


class UsageServicer:
    """Takes usage; every answer leaves after the commit."""

    def __init__(self, taking: UsageTaking, permit: Permit | None = None) -> None:
        """`permit` says whose usage may be reported; None: everybody's."""
        self._taking = taking
        self._permit = permit

    def methods(self) -> list[Method]:
        """What a front has to serve."""
        return [
            Method(_SERVICE + "ReportUsage", self.report),
            Method(_SERVICE + "RecordTask", self.record_task),
            Method(_SERVICE + "CorrectUsage", self.correct),
        ]

    async def report(self, payload: bytes) -> bytes:
        """ReportUsage."""
        request = parse_message(usage_pb2.ReportUsageRequest, payload)
        results = await self._taking.reporter.report(request.events, self._permit)
        return usage_pb2.ReportUsageResponse(
            results=[result_to_proto(result) for result in results]
        ).SerializeToString()

    async def record_task(self, payload: bytes) -> bytes:
        """RecordTask."""
        message = parse_message(usage_pb2.RecordTaskRequest, payload)
        task = parse_task(message, self._taking.clock.now())
        self._require(task.tenant_id)
        named = msgspec.structs.replace(
            task,
            subject=self._shown(task.tenant_id, task.subject),
            actor_id=self._shown(task.tenant_id, task.actor_id),
            emitter=self._emitter(task.emitter),
        )
        results = await self._taking.tasks.record(named)
        return usage_pb2.RecordTaskResponse(
            results=[result_to_proto(result) for result in results]
        ).SerializeToString()

    async def correct(self, payload: bytes) -> bytes:
        """CorrectUsage."""
        correction = parse_correction(parse_message(usage_pb2.CorrectUsageRequest, payload))
        self._require(correction.tenant_id)
        named = msgspec.structs.replace(
            correction,
            actor_id=self._shown(correction.tenant_id, correction.actor_id),
            emitter=self._emitter(correction.emitter),
        )
        result = await self._taking.corrections.correct(named)
        return usage_pb2.CorrectUsageResponse(result=result_to_proto(result)).SerializeToString()

    def _require(self, tenant_id: str) -> None:
        if self._permit is not None:
            self._permit.require(tenant_id)

    def _emitter(self, claimed: str) -> str:
        return claimed if self._permit is None else self._permit.emitter(claimed)

    def _shown(self, tenant_id: str, name: str) -> str:
        pseudonyms = self._taking.pseudonyms
        return name if pseudonyms is None else pseudonyms.of(tenant_id, name)
