"""The clients. Both build, retry, translate and fall back in the same places; they differ in the call itself.

check ── message ──▶ [call, retried by gRPC within the deadline] ──▶ Decision
                                   └─ no answer ──▶ what the caller declared: allow, deny or raise
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Self, Unpack

import grpc

from entitlement_sidecar.client.base import DEFAULT_TARGET, Answer
from entitlement_sidecar.client.channel import CHANNEL_OPTIONS
from entitlement_sidecar.client.messages import (
    CheckOptions,
    CorrectionOptions,
    Explanation,
    TaskParts,
    TenantState,
    Usage,
    check_message,
    correction_message,
    explain_message,
    explanation,
    report_message,
    task_message,
    tenant_state,
)
from entitlement_sidecar.client.reservations import AsyncReservationCalls, ReservationCalls
from entitlement_sidecar.domain.decision import Decision
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.wire.codec import decision_from_proto, result_from_proto
from entitlement_sidecar.wire.v1 import decision_pb2, decision_pb2_grpc, usage_pb2, usage_pb2_grpc


def _decision(reply: decision_pb2.CheckEntitlementResponse) -> Decision:
    return decision_from_proto(reply.decision)


def _results(reply: usage_pb2.ReportUsageResponse | usage_pb2.RecordTaskResponse) -> list[UsageResult]:
    return [result_from_proto(result) for result in reply.results]


class EntitlementsClient(ReservationCalls):
    """Asks the sidecar. Safe to share between threads; make one per process and close it.

    Args:
        target: `HOST:PORT` or `unix:/path`.
        timeout: Seconds for a check, its retries included.
        report_timeout: Seconds for a report.
        if_unreachable: What a check says when no sidecar answers, unless the check says otherwise.
        credentials: What the sidecar is shown, and TLS.

    Raises:
        ConfigurationError: A file of the credentials cannot be read; names it.
    """

    def __init__(self, target: str = DEFAULT_TARGET, **settings: Any) -> None:  # noqa: ANN401 - of BaseClient
        super().__init__(target, **settings)
        self._channel = (
            grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
            if self._secured is None
            else grpc.secure_channel(target, self._secured, options=CHANNEL_OPTIONS)
        )
        self._entitlements = decision_pb2_grpc.EntitlementServiceStub(self._channel)
        self._check = self._entitlements.CheckEntitlement
        self._usage = usage_pb2_grpc.UsageServiceStub(self._channel)
        self._report = self._usage.ReportUsage

    def check(
        self,
        tenant_id: str,
        feature: str,
        *,
        consume: bool = False,
        if_unreachable: Answer | None = None,
        **options: Unpack[CheckOptions],
    ) -> Decision:
        """May the tenant use the feature? With `consume`, an allowed answer has used it.

        Raises:
            InvalidInputError: The question is malformed; names the field.
            IdempotencyConflictError: The request id came before with another quantity.
            RetryableError: No sidecar answered, and nothing else was declared.
        """
        message = check_message(tenant_id, feature, consume=consume, options=options)
        try:
            return _decision(self._check(message, timeout=self._timeout, metadata=self._shown))
        except grpc.RpcError as error:
            return self._instead(error, if_unreachable)

    def explain(self, tenant_id: str, feature: str, **options: Unpack[CheckOptions]) -> Explanation:
        """A look, and every step that led to its decision; for people, not for each request.

        Raises:
            InvalidInputError: The question is malformed; names the field.
            RetryableError: No sidecar answered.
        """
        message = explain_message(tenant_id, feature, options)
        try:
            reply = self._entitlements.ExplainEntitlement(
                message, timeout=self._report_timeout, metadata=self._shown
            )
            return explanation(reply)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def watch(self, tenant_id: str, after_version: int = 0) -> Iterator[TenantState]:
        """The current state of a tenant, then each change; none older than `after_version`.

        Ends by closing the iterator. After a RetryableError watch again, after the last version seen.

        Raises:
            InvalidInputError: The question is malformed; names the field.
            RetryableError: The sidecar is away or has gone.
        """
        message = decision_pb2.WatchEntitlementsRequest(tenant_id=tenant_id, after_version=after_version)
        call = self._entitlements.WatchEntitlements(message, metadata=self._shown)
        try:
            for state in call:
                yield tenant_state(state)
        except grpc.RpcError as error:
            raise self._translated(error) from error
        finally:
            call.cancel()

    def report(self, usages: Iterable[Usage]) -> list[UsageResult]:
        """Reports 1 to 1,000 facts; one outcome each, in order. ACCEPTED ones are on disk.

        Raises:
            InvalidInputError: The call as a whole is malformed; names the field.
            RetryableError: No sidecar answered, or it can take no more: report again later.
        """
        try:
            message = report_message(usages)
            return _results(self._report(message, timeout=self._report_timeout, metadata=self._shown))
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def record_task(self, tenant_id: str, task_id: str, **parts: Unpack[TaskParts]) -> list[UsageResult]:
        """Records a task with its tokens and compute, all or none; the same task again counts once.

        Raises:
            InvalidInputError: A field is malformed; names it.
            NotFoundError: The catalogue does not say how tasks are counted.
            RetryableError: No sidecar answered, or it can take no more: record it again later.
        """
        try:
            message = task_message(tenant_id, task_id, parts)
            return _results(
                self._usage.RecordTask(message, timeout=self._report_timeout, metadata=self._shown)
            )
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def correct(
        self, tenant_id: str, original_id: str, reason: str, **options: Unpack[CorrectionOptions]
    ) -> UsageResult:
        """Voids an event, or amends its value; the plan store says what becomes of it.

        Raises:
            InvalidInputError: A field is malformed; names it.
            RetryableError: No sidecar answered, or it can take no more: correct it again later.
        """
        try:
            message = correction_message(tenant_id, original_id, reason, options)
            reply = self._usage.CorrectUsage(message, timeout=self._report_timeout, metadata=self._shown)
            return result_from_proto(reply.result)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Closes the connection. Calls under way fail."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncEntitlementsClient(AsyncReservationCalls):
    """As `EntitlementsClient`, for asyncio. Make it inside the loop that uses it."""

    def __init__(self, target: str = DEFAULT_TARGET, **settings: Any) -> None:  # noqa: ANN401 - of BaseClient
        super().__init__(target, **settings)
        self._channel = (
            grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
            if self._secured is None
            else grpc.aio.secure_channel(target, self._secured, options=CHANNEL_OPTIONS)
        )
        self._entitlements = decision_pb2_grpc.EntitlementServiceStub(self._channel)
        self._check = self._entitlements.CheckEntitlement
        self._usage = usage_pb2_grpc.UsageServiceStub(self._channel)
        self._report = self._usage.ReportUsage

    async def check(
        self,
        tenant_id: str,
        feature: str,
        *,
        consume: bool = False,
        if_unreachable: Answer | None = None,
        **options: Unpack[CheckOptions],
    ) -> Decision:
        """As `EntitlementsClient.check`."""
        message = check_message(tenant_id, feature, consume=consume, options=options)
        try:
            return _decision(await self._check(message, timeout=self._timeout, metadata=self._shown))
        except grpc.RpcError as error:
            return self._instead(error, if_unreachable)

    async def explain(self, tenant_id: str, feature: str, **options: Unpack[CheckOptions]) -> Explanation:
        """As `EntitlementsClient.explain`."""
        message = explain_message(tenant_id, feature, options)
        try:
            reply = await self._entitlements.ExplainEntitlement(
                message, timeout=self._report_timeout, metadata=self._shown
            )
            return explanation(reply)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    async def watch(self, tenant_id: str, after_version: int = 0) -> AsyncIterator[TenantState]:
        """As `EntitlementsClient.watch`."""
        message = decision_pb2.WatchEntitlementsRequest(tenant_id=tenant_id, after_version=after_version)
        call = self._entitlements.WatchEntitlements(message, metadata=self._shown)
        try:
            async for state in call:
                yield tenant_state(state)
        except grpc.RpcError as error:
            raise self._translated(error) from error
        finally:
            call.cancel()

    async def report(self, usages: Iterable[Usage]) -> list[UsageResult]:
        """As `EntitlementsClient.report`."""
        try:
            message = report_message(usages)
            return _results(await self._report(message, timeout=self._report_timeout, metadata=self._shown))
        except grpc.RpcError as error:
            raise self._translated(error) from error

    async def record_task(
        self, tenant_id: str, task_id: str, **parts: Unpack[TaskParts]
    ) -> list[UsageResult]:
        """As `EntitlementsClient.record_task`."""
        try:
            message = task_message(tenant_id, task_id, parts)
            return _results(
                await self._usage.RecordTask(message, timeout=self._report_timeout, metadata=self._shown)
            )
        except grpc.RpcError as error:
            raise self._translated(error) from error

    async def correct(
        self, tenant_id: str, original_id: str, reason: str, **options: Unpack[CorrectionOptions]
    ) -> UsageResult:
        """As `EntitlementsClient.correct`."""
        try:
            message = correction_message(tenant_id, original_id, reason, options)
            reply = await self._usage.CorrectUsage(
                message, timeout=self._report_timeout, metadata=self._shown
            )
            return result_from_proto(reply.result)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    async def close(self) -> None:
        """Closes the connection. Calls under way fail."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
