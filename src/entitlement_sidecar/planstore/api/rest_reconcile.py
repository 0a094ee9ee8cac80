"""What the root has counted against what the ledger holds, difference by difference."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import ORGANIZATION, Instant, Tenant, View
from entitlement_sidecar.planstore.catalogue import current_document
from entitlement_sidecar.planstore.leases.strictness import strict_features
from entitlement_sidecar.planstore.subscriptions import find_organization
from entitlement_sidecar.planstore.usage.reconcile import Explained, Line, ReconcileAsk, reconcile
from entitlement_sidecar.wire.fields import KEY_FORM, expected, is_key

_Feature = Annotated[str, Query(max_length=64, description="Only this feature.", examples=["requests"])]
_At = Annotated[Instant | None, Query(description="Windows that hold this instant; now.")]


class ExplainedView(View):
    """A part of a difference, and its cause."""

    cause: str = Field(examples=["events of the lease are on their way"])
    quantity: int = Field(examples=[2])
    lease_id: str = Field(description="Empty where it is no lease's.")
    holder: str


class DifferenceView(View):
    """One column of one counter of the root."""

    feature: str = Field(examples=["requests"])
    limit: str = Field(description="Key of the limit; of credits the grant.", examples=["month"])
    window_start: datetime
    window_end: datetime | None
    column: str = Field(description="admitted, unadmitted, delegated or forfeited.", examples=["admitted"])
    authority: int = Field(description="What the root has counted.", examples=[42])
    ledger: int = Field(
        description="What events add up to; of delegated and forfeited what accounts have.", examples=[40]
    )
    difference: int = Field(examples=[2])
    unexplained: int = Field(description="The part of the difference that has no cause.", examples=[0])
    strict: bool = Field(
        description="Of forfeited: it is so much that the feature grants no leases at this instant.",
        examples=[False],
    )
    explained: list[ExplainedView]


class ReconciliationView(View):
    """Every column of every counter; those that agree have the difference 0."""

    at: datetime
    lines: list[DifferenceView]


def usage_reconciliation(dependencies: ApiDependencies) -> APIRouter:
    """The route of reconciliation."""
    router = APIRouter(tags=["usage"])

    @router.get(f"{ORGANIZATION}/usage/reconciliation")
    def get_reconciliation(tenant_id: Tenant, feature: _Feature = "", at: _At = None) -> ReconciliationView:
        """Compares the root's counters with the ledger and with leases, and explains what differs."""
        if feature and not is_key(feature):
            raise InvalidInputError.of("feature", expected(KEY_FORM, feature))
        instant = at or dependencies.clock.now()
        with dependencies.database.reading() as session:
            find_organization(session, tenant_id)
            asked = ReconcileAsk(tenant_id, instant, feature)
            lines = list(reconcile(session, asked, current_document(session)))
            losing = [line.feature for line in lines if _is_lost(line)]
            strict = strict_features(session, tenant_id, losing, instant)
        return ReconciliationView(at=instant, lines=[_view(line, strict) for line in lines])

    return router


def _is_lost(line: Line) -> bool:
    return line.column == "forfeited" and line.authority > 0


def _view(line: Line, strict: Collection[str]) -> DifferenceView:
    return DifferenceView(
        feature=line.feature,
        limit=line.limit_key,
        window_start=line.window_start,
        window_end=line.window_end,
        column=line.column,
        authority=line.authority,
        ledger=line.ledger,
        difference=line.difference,
        unexplained=line.unexplained,
        strict=_is_lost(line) and line.feature in strict,
        explained=[_part(one) for one in line.explained],
    )


def _part(one: Explained) -> ExplainedView:
    return ExplainedView(cause=one.cause, quantity=one.quantity, lease_id=one.lease_id, holder=one.holder)
