"""What the plan store counts of itself."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.telemetry.metrics import REGISTRY
from support.transports import Store, ThroughRedis

SUBSCRIPTION = "/api/billing/organizations/{tenant_id:path}/subscription"


def requests(route: str, method: str, status: str) -> float:
    """REST requests so far."""
    labels = {"route": route, "method": method, "status": status}
    return REGISTRY.get_sample_value("entitlement_rest_requests_total", labels) or 0.0


def waiting() -> float | None:
    """Changes that Redis does not have."""
    return REGISTRY.get_sample_value("entitlement_unpublished_changes")


@pytest.mark.parametrize(
    ("method", "path", "more", "labels"),
    [
        ("GET", SUBSCRIPTION.replace("{tenant_id:path}", "acme"), {}, (SUBSCRIPTION, "GET", "2xx")),
        ("GET", SUBSCRIPTION.replace("{tenant_id:path}", "nobody"), {}, (SUBSCRIPTION, "GET", "4xx")),
        ("POST", SUBSCRIPTION.replace("{tenant_id:path}", "acme"), {}, (SUBSCRIPTION, "POST", "4xx")),
        ("GET", "/no/such/route", {}, ("none", "GET", "4xx")),
        ("GET", "/api/billing/plans", {"headers": {}}, ("none", "GET", "4xx")),
        ("BREW", "/api/billing/plans", {"headers": {}}, ("none", "other", "4xx")),
    ],
)
def test_requests_are_counted(
    shop: Any, method: str, path: str, more: dict[str, Any], labels: tuple[str, str, str]
) -> None:
    """By the route's own form and never by what a caller wrote, so that series stay few."""
    shop.subscribe()
    before = requests(*labels)

    shop.rest.request(method, path, **more)

    assert requests(*labels) == before + 1


def test_what_fails_inside_is_counted(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody expected is a 5xx of its route."""

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(shop.subscriptions, "upsert", fail)
    before = requests(SUBSCRIPTION, "POST", "5xx")

    shop.rest.post(SUBSCRIPTION.replace("{tenant_id:path}", "acme"), json={"plan": "basic"})

    assert requests(SUBSCRIPTION, "POST", "5xx") == before + 1


async def test_what_waits_is_known_while_redis_is_away(
    database: Database, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number grows past what is published at once, although Redis never answers."""
    monkeypatch.setattr("entitlement_sidecar.planstore.snapshots.publisher.BATCH", 2)
    store = Store(database)
    for _ in range(4):
        store.change()
    async with AsyncExitStack() as stack:
        through = ThroughRedis(store, f"redis://127.0.0.1:{free_port}/0", stack)

        with pytest.raises(redis.ConnectionError):
            through.publish()

    assert waiting() == 5


async def test_what_was_published_does_not_wait(database: Database, redis_db: str) -> None:
    """With Redis there the number falls to nothing."""
    store = Store(database)
    async with AsyncExitStack() as stack:
        through = ThroughRedis(store, redis_db, stack)
        through.publish()
        through.publish()

    assert waiting() == 0
