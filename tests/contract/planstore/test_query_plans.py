"""What the plan store asks PostgreSQL for again and again is found by index, with however many tenants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from support.hot_calls import Calls, own_calls, rest_calls, rpc_calls
from support.population import Population, analyze, announce_everything_again, name_of, populate
from support.shop import Shop
from support.statements import Node, Statement, big_tables, recorded

TENANTS = 5_000
BIG = 500
"""Rows from which on a table must not be read as a whole."""

SORTED = 200
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
    wrong: list[str] = []
    calls = _calls(shop, client)
    calls["the publisher's step"]()  # Redis is filled once, as a whole.
    with shop.database.writing() as session:
        announce_everything_again(session)
    analyze(shop)
    sent: dict[str, list[Statement]] = {}
    for name, call in calls.items():
        with recorded(shop.database.engine) as statements:
            call()
        sent[name] = list(statements)
        print(name, len(statements))
    with shop.database.engine.connect() as connection:
        big = big_tables(connection, BIG)
        assert {"organizations", "tenant_snapshots", "usage_events", "audit_log", "snapshot_outbox"} <= big
        for name, statements in sent.items():
            for statement in statements:
                if statement.can_be_explained:
                    wrong += [
                        f"{name} {one}" for one in _offences(statement, statement.plan(connection), big)
                    ]
    assert not wrong, "\n".join(dict.fromkeys(wrong))
