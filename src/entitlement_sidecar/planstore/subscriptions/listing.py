"""Going through all tenants, page by page, at the same cost for every page."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, lazyload

from entitlement_sidecar.planstore.db import OrganizationRow, PlanRow, SubscriptionRow
from entitlement_sidecar.planstore.subscriptions.phases import status_of

LOOKED_AT = 1000
"""Tenants that one page looks at, at most: also where hardly any of them is wanted."""


class Wanted(msgspec.Struct, frozen=True):
    """Which tenants: those after one, in the order of their ids, with a subscription that is like this."""

    after: str = ""
    plan: str = ""
    status: str = ""
    limit: int = 100

    @property
    def is_filtered(self) -> bool:
        """Whether not every tenant is wanted."""
        return bool(self.plan or self.status)

    def fits(self, subscription: Listed) -> bool:
        """Whether a subscription is of the plan and has the status that are asked for."""
        return self.plan in {"", subscription.row.plan.code} and self.status in {"", subscription.status}


class Listed(msgspec.Struct, frozen=True):
    """The newest subscription of a product, and what it is worth now."""

    row: SubscriptionRow
    status: str


class ListedTenant(msgspec.Struct, frozen=True):
    """A tenant with its newest subscription of each product."""

    organization: OrganizationRow
    subscriptions: tuple[Listed, ...]


class TenantPage(msgspec.Struct, frozen=True):
    """Some tenants, and after which one to go on; None: there are no more.

    With a filter there may be fewer than asked for, or none, and more to come.
    """

    tenants: tuple[ListedTenant, ...]
    after: str | None


def list_tenants(session: Session, wanted: Wanted, now: datetime) -> TenantPage:
    """A page of tenants: two statements, and never more rows than `LOOKED_AT` tenants have."""
    looked_at = LOOKED_AT if wanted.is_filtered else wanted.limit
    organizations = select(OrganizationRow).where(OrganizationRow.tenant_id > wanted.after)
    rows = session.scalars(organizations.order_by(OrganizationRow.tenant_id).limit(looked_at + 1)).all()
    window = rows[:looked_at]
    if not window:
        return TenantPage((), None)
    held = _subscriptions(session, wanted.after, window[-1].tenant_id, now)
    found = [ListedTenant(row, held.get(row.tenant_id, ())) for row in window]
    if wanted.is_filtered:
        found = [one for one in found if any(wanted.fits(each) for each in one.subscriptions)]
    page = tuple(found[: wanted.limit])
    if len(found) > wanted.limit:
        return TenantPage(page, page[-1].organization.tenant_id)
    return TenantPage(page, window[-1].tenant_id if len(rows) > looked_at else None)


def _subscriptions(session: Session, after: str, last: str, now: datetime) -> dict[str, tuple[Listed, ...]]:
    """What the tenants between two ids have; of what a plan or a subscription consists is not read."""
    query = (
        select(SubscriptionRow)
        .where(SubscriptionRow.tenant_id > after, SubscriptionRow.tenant_id <= last)
        .options(
            joinedload(SubscriptionRow.plan).options(lazyload(PlanRow.entitlements)),
            joinedload(SubscriptionRow.next_plan).options(lazyload(PlanRow.entitlements)),
            lazyload(SubscriptionRow.add_ons),
        )
    )
    latest: dict[str, dict[str, SubscriptionRow]] = {}
    for row in sorted(session.scalars(query), key=lambda row: (row.open, row.created_at, row.id)):
        latest.setdefault(row.tenant_id, {})[row.product] = row
    return {
        tenant_id: tuple(Listed(rows[product], status_of(rows[product], now)) for product in sorted(rows))
        for tenant_id, rows in latest.items()
    }
