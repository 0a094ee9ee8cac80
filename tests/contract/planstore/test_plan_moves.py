"""Subscribers that move from one plan version to another, over REST, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from entitlement_sidecar.domain.errors import ExhaustedError
from entitlement_sidecar.planstore.api.plan_moves import Moved, move_of, move_page
from entitlement_sidecar.planstore.subscriptions import Target
from support.shop import AUTHORISED, CATALOGUE

MOVES = "/api/billing/plans/migrations"

POORER = (
    CATALOGUE.replace("amount: 5, window: day", "amount: 3, window: day")
    .replace("      reports: true\n      packs: {value: 2}\n", "      packs: {value: 1}\n")
    .replace('"29.90"', '"19.90"')
)


def move(shop: Any, **wanted: Any) -> dict[str, Any]:
    """Moves a page of subscribers of basic@1 to what is on sale."""
    answer = shop.rest.post(MOVES, json={"from": "basic@1", "to": "basic", **wanted})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def plan_of(shop: Any, tenant: str) -> str:
    """What a tenant is subscribed to."""
    found = shop.rest.get(f"/api/billing/organizations/{tenant}/subscription").json()
    return f"{found['plan']}@{found['plan_version']}"


def use(shop: Any, tenant: str, quantity: int) -> None:
    """Uses some calls."""
    body = {"feature": "calls", "quantity": quantity, "record_usage": True, "request_id": f"r{quantity}"}
    assert shop.rest.post(f"/api/billing/organizations/{tenant}/quotas/check", json=body).json()["allowed"]


def test_subscribers_are_moved_by_page(shop: Any) -> None:
    """Page after page until there are no more; beginning again finds nobody; add-ons stay."""
    for n in range(5):
        shop.subscribe(f"t{n}", "basic", add_ons={"more": 2})
    shop.subscribe("other", "free")
    shop.apply(POORER)

    first = move(shop, limit=2)
    second = move(shop, limit=2, cursor=first["next_cursor"])
    third = move(shop, limit=2, cursor=second["next_cursor"])
    again = move(shop)

    assert (first["from"], first["to"], first["subscribers"]) == ("basic@1", "basic@2", 5)
    assert [one["moved"] for one in (first, second, third, again)] == [2, 2, 1, 0]
    assert (first["next_cursor"], third["next_cursor"], again["subscribers"]) == ("t1", None, 0)
    assert {plan_of(shop, f"t{n}") for n in range(5)} == {"basic@2"}
    assert plan_of(shop, "other") == "free@1"
    assert shop.snapshot("t0").subscriptions[0].plan_version == 2
    assert len([grant for grant in shop.snapshot("t0").grants if grant.provenance.id == "more"]) == 2


class _Room:
    """A pace with room for so many batches."""

    def __init__(self, batches: int) -> None:
        self._left = batches

    def wait(self) -> bool:
        """Takes one."""
        self._left -= 1
        return self._left >= 0


def test_subscribers_are_moved_while_the_publisher_keeps_up(shop: Any) -> None:
    """A batch at a time; where the publisher does not keep up it ends early and goes on from there."""
    for n in range(60):
        shop.subscribe(f"t{n:02}", "basic")
    shop.apply(POORER)
    with shop.database.reading() as session:
        wanted = move_of(session, "basic@1", "basic")

    def page(batches: int, after: str) -> Moved:
        pace: Any = _Room(batches)
        return move_page(shop.dependencies(), wanted, after, 100, pace)

    with pytest.raises(ExhaustedError):
        page(0, "")
    first = page(1, "")
    second = page(2, str(first.last))

    assert (first.moved, first.last, second.moved, second.last) == (50, "t49", 10, None)


def test_a_dry_run_says_who_would_be_denied_what_they_use(shop: Any) -> None:
    """Lost features, lowered values, and limits only where what is used has no room any more."""
    shop.subscribe("light", "basic")
    shop.subscribe("heavy", "basic")
    use(shop, "light", 2)
    use(shop, "heavy", 4)
    shop.apply(POORER)
    before = (shop.outbox(), shop.announced)

    found = move(shop, dry_run=True)

    every = [
        {"feature": "reports", "what": "feature", "limit": "", "before": None, "after": None, "used": None},
        {"feature": "packs", "what": "value", "limit": "", "before": 2, "after": 1, "used": None},
    ]
    day = {"feature": "calls", "what": "limit", "limit": "day", "before": 5, "after": 3, "used": 4}
    assert (found["dry_run"], found["moved"], found["skipped"]) == (True, 2, [])
    assert found["denied"] == [
        {"tenant_id": "heavy", "denied": [day, *every]},
        {"tenant_id": "light", "denied": every},
    ]
    assert plan_of(shop, "heavy") == "basic@1"
    assert (shop.outbox(), shop.announced) == before


def test_a_dry_run_writes_nothing_into_the_log(shop: Any) -> None:
    """What is taken back was never done: neither audit nor history knows of it."""
    shop.subscribe("acme", "basic")
    shop.apply(POORER)
    before = shop.rest.get("/api/billing/audit").json()

    move(shop, dry_run=True)

    assert shop.rest.get("/api/billing/audit").json() == before


def test_who_cannot_move_is_skipped_and_named(shop: Any) -> None:
    """A suspended subscription stays where it is, and says why; so does one that has ended."""
    for tenant in ("ended", "live", "suspended"):
        shop.subscribe(tenant, "basic", auto_renew=tenant != "ended")
    with shop.database.writing() as session:
        shop.subscriptions.suspend(session, Target(tenant_id="suspended"))
    shop.apply(POORER)
    shop.clock.advance(timedelta(days=40).total_seconds())

    found = move(shop)

    assert found["moved"] == 1
    assert {(one["tenant_id"], one["reason"]) for one in found["skipped"]} == {
        ("ended", "ended"),
        ("suspended", "suspended"),
    }
    assert "resume it first" in next(
        one["detail"] for one in found["skipped"] if one["tenant_id"] == "suspended"
    )
    assert plan_of(shop, "suspended") == "basic@1"


def test_only_some_tenants(shop: Any) -> None:
    """Those that are named and are on the version; others stay."""
    for tenant in ("a", "b", "c"):
        shop.subscribe(tenant, "basic")
    shop.apply(POORER)

    found = move(shop, tenants=["b", "nobody"])

    assert (found["subscribers"], found["moved"]) == (1, 1)
    assert [plan_of(shop, one) for one in ("a", "b", "c")] == ["basic@1", "basic@2", "basic@1"]


def test_at_the_period_s_end(shop: Any) -> None:
    """Everybody keeps what they have until then; a dry run looks ahead; what is set already is told."""
    shop.subscribe("acme", "basic")
    use(shop, "acme", 4)
    shop.apply(POORER)

    ahead = move(shop, at_period_end=True, dry_run=True)
    found = move(shop, at_period_end=True)
    again = move(shop, at_period_end=True)

    # A new day has begun by then, so what is used today takes nothing of it.
    assert [one["feature"] for one in ahead["denied"][0]["denied"]] == ["reports", "packs"]
    assert (found["moved"], plan_of(shop, "acme")) == (1, "basic@1")
    assert (again["moved"], again["skipped"][0]["reason"]) == (0, "scheduled")
    assert shop.snapshot().subscriptions[0].plan_version == 1


def test_back_again(shop: Any) -> None:
    """An older version may be the one to move to."""
    shop.subscribe("acme", "basic")
    shop.apply(POORER)
    move(shop)

    back = move(shop, **{"from": "basic@2", "to": "basic@1"})

    assert (back["moved"], plan_of(shop, "acme")) == (1, "basic@1")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"from": "basic", "to": "basic"}, 422, "from: expected CODE@VERSION such as basic@1"),
        ({"from": "basic@1", "to": "basic@1"}, 422, "to: expected another version than basic@1"),
        ({"from": "basic@7", "to": "basic"}, 404, "no plan 'basic@7'"),
        ({"from": "basic@1", "to": "gone"}, 404, "no plan 'gone'"),
        ({"from": "basic@x", "to": "A B"}, 422, "from: expected CODE@VERSION"),
        ({"from": "basic@1", "to": "basic", "limit": 501}, 422, "limit"),
        ({"from": "basic@1", "to": "basic", "tenants": ["a b"]}, 422, "tenants"),
        ({"from": "basic@1", "to": "basic", "cursor": "a b"}, 422, "cursor"),
        ({"from": "basic@1"}, 422, "to"),
        ({"source": "basic@1", "to": "basic"}, 422, "from"),
        ({"from": "basic@1", "to": "trial"}, 409, "subscribers move within one product"),
    ],
)
def test_wrong_moves_are_told(shop: Any, body: dict[str, Any], status: int, said: str) -> None:
    """What is wrong is named, with what would be right, and nobody is moved."""
    shop.apply(
        CATALOGUE.replace("    title: With a trial\n", "    title: With a trial\n    product: other\n")
    )
    shop.subscribe("acme", "basic")

    answer = shop.rest.post(MOVES, json=body)

    assert answer.status_code == status, answer.text
    assert said in answer.text
    assert plan_of(shop, "acme") == "basic@1"


def test_a_repeated_key_answers_the_same(shop: Any) -> None:
    """A retry with its key gets what the first call was told."""
    shop.subscribe("acme", "basic")
    shop.apply(POORER)
    headers = {**AUTHORISED, "idempotency-key": "move-1"}
    body = {"from": "basic@1", "to": "basic"}

    first = shop.rest.post(MOVES, json=body, headers=headers)
    second = shop.rest.post(MOVES, json=body, headers=headers)

    assert (first.json()["moved"], second.json()) == (1, first.json())


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("at_period_end", [True, False])
def test_who_has_chosen_another_plan_keeps_that_choice(shop: Any, at_period_end: bool, dry_run: bool) -> None:
    """A downgrade that waits for the end of the period is neither dropped nor replaced."""
    shop.subscribe("acme", "basic")
    shop.subscribe("acme", "free", at_period_end=True)
    shop.apply(POORER)
    path = "/api/billing/organizations/acme/subscription"
    before = shop.rest.get(path).json()

    found = move(shop, at_period_end=at_period_end, dry_run=dry_run)

    assert found["moved"] == 0
    (skipped,) = found["skipped"]
    assert (skipped["tenant_id"], skipped["reason"]) == ("acme", "scheduled")
    assert "free@1 is its next plan: resume it first" in skipped["detail"]
    assert shop.rest.get(path).json() == before


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("at_period_end", [True, False])
def test_whose_next_plan_has_begun_is_not_moved_back(shop: Any, at_period_end: bool, dry_run: bool) -> None:
    """Time has put it on another plan, though nobody has stored that yet."""
    shop.subscribe("acme", "basic")
    shop.subscribe("acme", "free", at_period_end=True)
    shop.apply(POORER)
    shop.clock.advance(timedelta(days=40).total_seconds())

    found = move(shop, at_period_end=at_period_end, dry_run=dry_run)

    assert found["moved"] == 0
    assert [(one["reason"], one["detail"]) for one in found["skipped"]] == [
        ("changed", "it is on free@1 by now")
    ]
    if not dry_run:
        assert plan_of(shop, "acme") == "free@1"


def test_who_would_move_later_may_move_now(shop: Any) -> None:
    """The same plan at once, in place of at the period's end."""
    shop.subscribe("acme", "basic")
    shop.apply(POORER)
    move(shop, at_period_end=True)

    found = move(shop)

    assert (found["moved"], plan_of(shop, "acme")) == (1, "basic@2")
