"""UsageService: parse, call, map. No rule, no storage."""

from __future__ import annotations

from entitlement_sidecar.sidecar.rpc.front import Method
from entitlement_sidecar.sidecar.rpc.permit import Permit
from entitlement_sidecar.sidecar.rpc.requests import parse_message
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.wire.codec import result_to_proto
from entitlement_sidecar.wire.v1 import usage_pb2

_SERVICE = "/entitlement.v1.UsageService/"


class UsageServicer:
    """Takes reports; its answer leaves after the commit."""

    def __init__(self, reporter: UsageReporter, permit: Permit | None = None) -> None:
        """`permit` says whose usage may be reported; None: everybody's."""
        self._reporter = reporter
        self._refusal = permit.refusal if permit else None

    def methods(self) -> list[Method]:
        """What a front has to serve."""
        return [Method(_SERVICE + "ReportUsage", self.report)]

    async def report(self, payload: bytes) -> bytes:
        """ReportUsage."""
        request = parse_message(usage_pb2.ReportUsageRequest, payload)
        results = await self._reporter.report(request.events, self._refusal)
        return usage_pb2.ReportUsageResponse(
            results=[result_to_proto(result) for result in results]
        ).SerializeToString()
