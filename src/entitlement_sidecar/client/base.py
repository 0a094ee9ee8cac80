"""What both clients share: everything but the calls themselves."""

from __future__ import annotations

from enum import Enum
from typing import cast

import grpc

from entitlement_sidecar.client.credentials import NOTHING, Credentials
from entitlement_sidecar.domain.decision import Decision, Degradation, Reason, Source
from entitlement_sidecar.domain.errors import RetryableError
from entitlement_sidecar.wire.status import from_rpc_error

DEFAULT_TARGET = "127.0.0.1:7400"
DEFAULT_TIMEOUT = 0.25
"""Seconds for a check, its retries included."""

DEFAULT_REPORT_TIMEOUT = 5.0
"""Seconds for a report: it waits for a disk."""

_UNJUDGED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""No fault of the question: the sidecar is away, slow, overloaded or broken."""


class Answer(Enum):
    """What a check says when no sidecar answers."""

    ALLOW = "allow"
    DENY = "deny"
    RAISE = "raise"


class BaseClient:
    """What both clients share: everything but the call."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        report_timeout: float = DEFAULT_REPORT_TIMEOUT,
        if_unreachable: Answer = Answer.RAISE,
        credentials: Credentials = NOTHING,
    ) -> None:
        self.target = target
        self._shown = credentials.metadata()
        self._secured = credentials.channel()
        self._timeout = timeout
        self._report_timeout = report_timeout
        self._if_unreachable = if_unreachable

    def _instead(self, error: grpc.RpcError, declared: Answer | None) -> Decision:
        answer = self._if_unreachable if declared is None else declared
        code = cast("grpc.Call", error).code()
        if code not in _UNJUDGED or answer is Answer.RAISE:
            raise self._translated(error) from error
        allowed = answer is Answer.ALLOW
        return Decision(
            allowed=allowed,
            reason=Reason.UNDETERMINED,
            degradation=Degradation.FAIL_OPEN if allowed else Degradation.FAIL_CLOSED,
            source=Source.FALLBACK,
            notes=(f"billing:error:sidecar-{code.name.lower().replace('_', '-')}",),
        )

    def _translated(self, error: grpc.RpcError) -> Exception:
        translated = from_rpc_error(error)
        if isinstance(translated, RetryableError):
            translated.args = (
                self._away(cast("grpc.Call", error)) or f"sidecar at {self.target}: {translated}",
            )
        return translated

    def _away(self, call: grpc.Call) -> str:
        """Says that nobody is there; empty where the sidecar itself has answered."""
        told = call.details() or ""
        if call.code() is not grpc.StatusCode.UNAVAILABLE or "connect" not in told:
            return ""
        if "verif" in told.lower():
            return (
                f"the certificate shown at {self.target} is not accepted: another authority has signed it, "
                "it has ended, or it is for another name"
            )
        if "closed" in told or "reset" in told:
            return (
                f"what listens at {self.target} closes the connection: it may ask for TLS, or for a "
                "certificate of an authority that it trusts"
            )
        return f"no sidecar answers at {self.target}: is it running?"
