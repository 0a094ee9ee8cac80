"""Pages of what usage adds up to: together they are the whole list."""

from __future__ import annotations

from typing import Any

import pytest

from entitlement_sidecar.planstore.db import UsageLedgerRow
from support.shop import NOW

USAGE = "/api/billing/organizations/acme/usage"


@pytest.fixture
def counted(shop: Any) -> Any:
    """A shop in which acme has aggregates that differ in what they count as alone."""
    shop.subscribe()
    with shop.database.writing() as session:
        for classification in (1, 2, 3):
            session.add(
                UsageLedgerRow(
                    tenant_id="acme",
                    subscription_id="",
                    metric="calls",
                    window_kind="month",
                    window_start=NOW,
                    classification=classification,
                    value=classification,
                    event_count=1,
                    first_event_at=NOW,
                    last_event_at=NOW,
                )
            )
    return shop


@pytest.mark.parametrize("limit", [1, 2])
def test_no_aggregate_is_left_out_between_pages(counted: Any, limit: int) -> None:
    """Also where a page ends between two of the same metric and window."""
    whole = counted.rest.get(USAGE).json()["usage"]

    paged, cursor = [], ""
    while cursor is not None:
        page = counted.rest.get(USAGE, params={"limit": limit, "cursor": cursor}).json()
        paged += page["usage"]
        cursor = page["next_cursor"]

    assert [one["value"] for one in whole] == [3, 2, 1]
    assert paged == whole
