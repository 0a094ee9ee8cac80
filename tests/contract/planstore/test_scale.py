"""A call costs the same with however many tenants; `make soak` asks with a hundred thousand."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import pytest
from sqlalchemy import Connection

from support.hot_calls import rest_calls, rpc_calls
from support.population import Population, name_of
from support.shop import Shop
from support.statements import Node, Statement, recorded

FEW = 2_500
"""Enough that PostgreSQL reads by index."""

MANY = 100_000 if os.environ.get("SOAK") else 5_000
DEEPER = 3
"""Pages more that one statement may look at, besides one for every row: indexes grow in depth."""

READING = (
    "GET subscription",
    "GET entitlements",
    "POST quotas/check, a look",
    "GET usage",
    "GET usage/events",
    "GET history",
    "GET organizations",
    "GET organizations, later on",
    "GET organizations, of a plan",
    "GetSnapshot",
)

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


class Cost(msgspec.Struct, frozen=True):
    """What one call makes PostgreSQL do."""

    statements: int
    rows: int
    pages: int


def _cost(shop: Shop, call: Callable[[], object]) -> Cost:
    call()  # What is read once and remembered is not what counts.
    with recorded(shop.database.engine) as sent:
        call()
    explained = [one for one in sent if one.can_be_explained]
    with shop.database.engine.connect() as connection:
        plans = [_executed(connection, one) for one in explained]
    return Cost(
        len(sent),
        sum(node.rows_read for plan in plans for node in plan),
        sum(plan.pages_read for plan in plans),
    )


def _executed(connection: Connection, statement: Statement) -> Node:
    return statement.plan(connection, executed=True)


def _costs(shop: Shop) -> dict[str, Cost]:
    # One that was there from the beginning, in the middle of what there was then.
    tenant = name_of(FEW // 2)
    calls = {**rest_calls(shop, tenant), **rpc_calls(shop, tenant)}
    return {name: _cost(shop, calls[name]) for name in READING}


@pytest.mark.timeout(1800 if os.environ.get("SOAK") else 120)
def test_a_call_costs_the_same_with_many_tenants(shop: Shop) -> None:
    """As many statements, as many rows, and hardly a page more."""
    population = Population(shop)
    population.grow(FEW)
    before = _costs(shop)
    population.grow(MANY)
    after = _costs(shop)

    assert {name: cost.statements for name, cost in after.items()} == {
        name: cost.statements for name, cost in before.items()
    }
    for name, cost in after.items():
        assert cost.rows <= before[name].rows, name
        assert cost.pages <= before[name].pages + cost.rows + DEEPER * cost.statements, name
