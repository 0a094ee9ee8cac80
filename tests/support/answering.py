"""A gRPC server in this process that answers as a sidecar would, with what the test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.decision import Decision
from entitlement_sidecar.domain.errors import DrainingError, EntitlementsError
from entitlement_sidecar.domain.explain import Step
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.wire.codec import decision_to_proto, result_to_proto
from entitlement_sidecar.wire.status import grpc_code, to_status, trailing_metadata
from entitlement_sidecar.wire.v1 import (
    decision_pb2,
    decision_pb2_grpc,
    types_pb2,
    usage_pb2,
    usage_pb2_grpc,
)

Judge = Callable[[decision_pb2.CheckEntitlementRequest], Decision]


class AnsweringSidecar(decision_pb2_grpc.EntitlementServiceServicer, usage_pb2_grpc.UsageServiceServicer):
    """Answers checks by `judge`, accepts all usage, and keeps what it was asked.

    `judge` may raise one of the product's errors.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.checks: list[decision_pb2.CheckEntitlementRequest] = []
        self.events: list[usage_pb2.UsageEvent] = []
        self.tasks: list[usage_pb2.RecordTaskRequest] = []
        self.corrections: list[usage_pb2.CorrectUsageRequest] = []
        self.reservations: list[usage_pb2.ReserveRequest] = []
        self.settlements: list[usage_pb2.SettleRequest] = []
        self.releases: list[usage_pb2.ReleaseRequest] = []
        self.target = ""
        self.steps: list[Step] = []
        self.states: list[decision_pb2.WatchEntitlementsResponse] = []
        self.watches: list[decision_pb2.WatchEntitlementsRequest] = []

    def ExplainEntitlement(  # noqa: N802
        self, request: decision_pb2.ExplainEntitlementRequest, context: grpc.ServicerContext
    ) -> decision_pb2.ExplainEntitlementResponse:
        """Answers as a check, with the steps that the test says."""
        answer = self.CheckEntitlement(request.check, context)
        return decision_pb2.ExplainEntitlementResponse(
            decision=answer.decision, steps=[_step(step) for step in self.steps]
        )

    def WatchEntitlements(  # noqa: N802
        self, request: decision_pb2.WatchEntitlementsRequest, context: grpc.ServicerContext
    ) -> Iterator[decision_pb2.WatchEntitlementsResponse]:
        """The states that the test says; then it has gone away."""
        self.watches.append(request)
        yield from self.states
        status = to_status(DrainingError("shutting down"))
        context.set_trailing_metadata(trailing_metadata(status))
        context.abort(grpc_code(status), status.message)

    def CheckEntitlement(  # noqa: N802 - named by the contract
        self, request: decision_pb2.CheckEntitlementRequest, context: grpc.ServicerContext
    ) -> decision_pb2.CheckEntitlementResponse:
        """Answers one check."""
        self.checks.append(request)
        try:
            return decision_pb2.CheckEntitlementResponse(decision=decision_to_proto(self.judge(request)))
        except EntitlementsError as error:
            status = to_status(error)
            context.set_trailing_metadata(trailing_metadata(status))
            context.abort(grpc_code(status), status.message)
            raise

    def ReportUsage(  # noqa: N802
        self, request: usage_pb2.ReportUsageRequest, context: grpc.ServicerContext
    ) -> usage_pb2.ReportUsageResponse:
        """Accepts every event."""
        del context
        self.events += request.events
        results = [UsageResult(event.id, UsageOutcome.ACCEPTED) for event in request.events]
        return usage_pb2.ReportUsageResponse(results=[result_to_proto(result) for result in results])

    def RecordTask(  # noqa: N802
        self, request: usage_pb2.RecordTaskRequest, context: grpc.ServicerContext
    ) -> usage_pb2.RecordTaskResponse:
        """Accepts a task, which counts once."""
        del context
        self.tasks.append(request)
        accepted = UsageResult(request.task_id, UsageOutcome.ACCEPTED)
        return usage_pb2.RecordTaskResponse(results=[result_to_proto(accepted)])

    def CorrectUsage(  # noqa: N802
        self, request: usage_pb2.CorrectUsageRequest, context: grpc.ServicerContext
    ) -> usage_pb2.CorrectUsageResponse:
        """Accepts a correction."""
        del context
        self.corrections.append(request)
        accepted = UsageResult(request.request_id, UsageOutcome.ACCEPTED)
        return usage_pb2.CorrectUsageResponse(result=result_to_proto(accepted))

    def Reserve(  # noqa: N802
        self, request: usage_pb2.ReserveRequest, context: grpc.ServicerContext
    ) -> usage_pb2.ReserveResponse:
        """Answers as a check of the feature."""
        del context
        self.reservations.append(request)
        check = decision_pb2.CheckEntitlementRequest(tenant_id=request.tenant_id, feature=request.feature)
        decision = self.judge(check)
        return usage_pb2.ReserveResponse(
            held=decision.allowed,
            expires_at=Timestamp(seconds=1_800_000_000) if decision.allowed else None,
            remaining=decision.remaining or 0,
            decision=decision_to_proto(decision),
        )

    def Settle(  # noqa: N802
        self, request: usage_pb2.SettleRequest, context: grpc.ServicerContext
    ) -> usage_pb2.SettleResponse:
        """Accepts a settlement; one came back."""
        del context
        self.settlements.append(request)
        accepted = UsageResult(f"s-{request.reservation_id}", UsageOutcome.ACCEPTED)
        return usage_pb2.SettleResponse(result=result_to_proto(accepted), returned=1)

    def Release(  # noqa: N802
        self, request: usage_pb2.ReleaseRequest, context: grpc.ServicerContext
    ) -> usage_pb2.ReleaseResponse:
        """Gives one back."""
        del context
        self.releases.append(request)
        return usage_pb2.ReleaseResponse(returned=1)


def _step(step: Step) -> decision_pb2.ResolutionStep:
    about = step.provenance
    return decision_pb2.ResolutionStep(
        rule=step.rule,
        provenance=types_pb2.Provenance(kind=int(about.kind), id=about.id) if about else None,
        outcome=step.outcome,
        applied=step.applied,
        decisive=step.decisive,
    )


@contextmanager
def answering(judge: Judge) -> Iterator[AnsweringSidecar]:
    """A sidecar of this kind on a free port, until the block ends."""
    servicer = AnsweringSidecar(judge)
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        decision_pb2_grpc.add_EntitlementServiceServicer_to_server(servicer, server)
        usage_pb2_grpc.add_UsageServiceServicer_to_server(servicer, server)
        servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield servicer
        finally:
            server.stop(0).wait()
