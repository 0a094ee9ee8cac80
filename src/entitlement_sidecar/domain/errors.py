"""Every error that the product raises on purpose, in one tree.

    EntitlementsError
    ├── InvalidInputError        the caller sent something malformed; names the fields
    │   └── CatalogueError       a catalogue document is wrong; names line and column
    ├── ConflictError            the same identity with other content, a stale version, not in this state
    ├── NotFoundError            the plan store's own word that it does not exist
    │   └── TenantUnknownError
    ├── CursorTrimmedError       the feed no longer keeps what comes after this cursor
    ├── UnauthenticatedError     no credentials, or wrong ones
    ├── ForbiddenError           credentials without the right
    ├── UnsupportedError         asked for something that this version does not do
    ├── ConfigurationError       a process cannot start like this; names the setting
    └── RetryableError           the same call may succeed later
        ├── SourceUnavailableError   something remote is away, slow or lying
        │   └── SourceRefusedError   it answered: it refuses this one call, or what it holds is no good
        ├── ExhaustedError           overload or a full disk
        │   └── TooManyAttemptsError too many wrong credentials from one address
        ├── OutboxStoppedError       too much was refused for good: nothing is sent until somebody looks
        └── DrainingError            this process is going away

`wire.status` maps each to a gRPC status, `planstore.api.problems` to an RFC 9457 problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec


class Violation(msgspec.Struct, frozen=True, gc=False):
    """One field that is wrong: its path, and what would be right."""

    field: str
    description: str


class EntitlementsError(Exception):
    """Base of all errors raised on purpose. `reason` is stable and machine-readable."""

    reason: ClassVar[str] = "INTERNAL"


class InvalidInputError(EntitlementsError):
    """The caller sent something malformed."""

    reason = "INVALID_INPUT"

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))

    @classmethod
    def of(cls, field: str, description: str) -> InvalidInputError:
        """One violation."""
        return cls([Violation(field, description)])


class CatalogueProblem(msgspec.Struct, frozen=True, gc=False):
    """One thing wrong in a catalogue document. `line` and `column` count from 1."""

    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f" (at {self.path})" if self.path else ""
        return f"line {self.line}, column {self.column}: {self.message}{where}"


class CatalogueError(InvalidInputError):
    """A catalogue document is wrong. Lists every problem found, with its place."""

    reason = "INVALID_CATALOGUE"

    def __init__(self, source: str, problems: Sequence[CatalogueProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__([Violation(f"{source}:{p.line}:{p.column}", p.message) for p in self.problems])

    def __str__(self) -> str:
        return "\n".join(f"{self.source}: {problem}" for problem in self.problems)


class ConflictError(EntitlementsError):
    """The same identity with other content, or a version that is no longer current."""

    reason = "CONFLICT"


class IdempotencyConflictError(ConflictError):
    """The same request id came with other content."""

    reason = "IDEMPOTENCY_CONFLICT"


class StaleVersionError(ConflictError):
    """Optimistic locking: the caller changed something that has changed since (S4.4).

    `current_version` is 0 for what is not there, None where the plan store did not say.
    """

    reason = "STALE_VERSION"

    def __init__(self, message: str, current_version: int | None = None) -> None:
        self.current_version = current_version
        super().__init__(message)


class IllegalTransitionError(ConflictError):
    """Its state does not allow it. The message names what it allows."""

    reason = "ILLEGAL_TRANSITION"


class LossesError(ConflictError):
    """A catalogue would take something in use from tenants. `losses` are what can be written as JSON."""

    reason = "TAKES_FROM_TENANTS"

    def __init__(self, message: str, losses: Sequence[Any]) -> None:
        self.losses = tuple(losses)
        super().__init__(message)


class NotFoundError(EntitlementsError):
    """It does not exist."""

    reason = "NOT_FOUND"


class TenantUnknownError(NotFoundError):
    """The plan store knows no such tenant."""

    reason = "TENANT_UNKNOWN"

    def __init__(self, tenant_id: str) -> None:
        self.tenant_id = tenant_id
        super().__init__(f"no tenant {tenant_id!r}: create a subscription for it first")


class CursorTrimmedError(EntitlementsError):
    """The feed no longer keeps what comes after this cursor: revalidate, and begin anew."""

    reason = "CURSOR_TRIMMED"


class UnauthenticatedError(EntitlementsError):
    """No credentials, or wrong ones."""

    reason = "UNAUTHENTICATED"


class ForbiddenError(EntitlementsError):
    """Credentials without the right."""

    reason = "PERMISSION_DENIED"


class UnsupportedError(EntitlementsError):
    """The caller asked for something that this version does not do. Better said than ignored."""

    reason = "UNSUPPORTED"


class ConfigurationError(EntitlementsError):
    """A process cannot start like this. The message names the setting and what would be right."""

    reason = "CONFIGURATION"


class RetryableError(EntitlementsError):
    """The same call may succeed later; `retry_after` is in seconds where it is known."""

    reason = "UNAVAILABLE"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class SourceUnavailableError(RetryableError):
    """Something remote is away, slow or lying."""

    reason = "SOURCE_UNAVAILABLE"


class SourceRefusedError(SourceUnavailableError):
    """It is there and answered, but it refuses this one call, or what it holds for it is no good."""


class VersionNotReachedError(RetryableError):
    """`min_snapshot_version` was not reached within the deadline."""

    reason = "VERSION_NOT_REACHED"


class TooStaleError(RetryableError):
    """Nothing as fresh as `max_staleness` could be had within the deadline."""

    reason = "TOO_STALE"


class ExhaustedError(RetryableError):
    """Overload, or a full disk."""

    reason = "EXHAUSTED"


class OutboxFullError(ExhaustedError):
    """The outbox has reached its configured size or the disk is full."""

    reason = "OUTBOX_FULL"


class OutboxStoppedError(RetryableError):
    """Too many events were refused for good: nothing is sent until an operator has looked at them."""

    reason = "OUTBOX_STOPPED"


class TooManyAttemptsError(ExhaustedError):
    """Wrong credentials came too often from one address."""

    reason = "TOO_MANY_ATTEMPTS"


class DrainingError(RetryableError):
    """This process is going away."""

    reason = "DRAINING"
