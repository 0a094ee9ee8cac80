"""What the plan store asks PostgreSQL for again and again is found by index, with however many tenants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import select

from entitlement_sidecar.planstore.db import UsageEventKeyRow, UsageEventRow
from support.hot_calls import Calls, own_calls, rest_calls, rpc_calls
from support.population import Population, analyze, announce_everything_again, name_of, populate
from support.shop import Shop
from support.statements import Node, Statement, big_tables, recorded

TENANTS = 5_000
BIG = 500
"""Rows from which on a table must not be read as a whole."""

SORTED = 500
"""Rows that may be sorted: a page, or what one tenant has of one kind."""

EVENTS = 4_000
"""Events of the tenant that is asked about: more than of any other."""


pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture
def full(shop: Shop) -> Population:
    """Many tenants; the first one has used a lot."""
    population = populate(shop, TENANTS)
    population.add_events(0, EVENTS)
    return population


@pytest.fixture
def client(redis_db: str) -> Iterator[redis.Redis]:
    """The Redis that is published to."""
    with redis.Redis.from_url(redis_db) as client:
        yield client


def _calls(shop: Shop, client: redis.Redis) -> Calls:
    tenant = name_of(0)
    return {**rest_calls(shop, tenant), **rpc_calls(shop, tenant), **own_calls(shop, tenant, client)}


def _offences(statement: Statement, plan: Node, big: set[str]) -> list[str]:
    found = []
    for node in plan:
        if node.kind == "Seq Scan" and node.relation in big:
            found.append(f"reads all of {node.relation}")
        if node.kind in {"Sort", "Incremental Sort"} and node.expected_rows > SORTED:
            found.append(f"sorts about {node.expected_rows} rows")
    return [f"{one}: {' '.join(statement.sql.split())[:600]}" for one in found]


@pytest.mark.usefixtures("full")
def test_no_big_table_is_read_or_sorted_as_a_whole(shop: Shop, client: redis.Redis) -> None:
    """Every statement of every hot call, with its parameters, as PostgreSQL plans it."""
    calls = _calls(shop, client)
    _publish_everything(shop, calls)
    sent: dict[str, list[Statement]] = {}
    for name, call in calls.items():
        with recorded(shop.database.engine) as statements:
            call()
        sent[name] = list(statements)
    assert not [name for name, statements in sent.items() if not statements]
    assert not _all_offences(shop, sent)


def test_a_table_that_is_read_as_a_whole_is_found(shop: Shop) -> None:
    """What is asked for without an index, and what is sorted, would fail the test above."""
    populate(shop, TENANTS)
    query = select(UsageEventRow.id).where(UsageEventRow.emitter == "nobody")
    ordered = select(UsageEventKeyRow.event_id).order_by(UsageEventKeyRow.digest)
    with recorded(shop.database.engine) as statements, shop.database.reading() as session:
        session.execute(query)
        session.execute(ordered)
    found = _all_offences(shop, {"by hand": statements})
    assert len([one for one in found if "reads all of usage_events" in one]) == 1
    assert len([one for one in found if "sorts about" in one]) == 1


def _publish_everything(shop: Shop, calls: Calls) -> None:
    """As after a change of all tenants, some time ago: the outbox is long, and nothing in it waits."""
    with shop.database.writing() as session:
        announce_everything_again(session)
    calls["the sequencer's step"]()
    while calls["the publisher's step"]() is not None:
        # A Redis that is empty is refilled first, a batch a step.
        shop.clock.advance(1.0)
    analyze(shop)


def _all_offences(shop: Shop, sent: dict[str, list[Statement]]) -> list[str]:
    with shop.database.engine.connect() as connection:
        big = big_tables(connection, BIG)
        return [
            f"{name} {one}"
            for name, statements in sent.items()
            for statement in statements
            if statement.can_be_explained
            for one in _offences(statement, statement.plan(connection), big)
        ]
