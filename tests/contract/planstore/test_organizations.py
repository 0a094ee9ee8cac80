"""All organizations by page, on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from support.population import name_of, populate
from support.shop import Shop

PATH = "/api/billing/organizations"
TENANTS = 1030


@pytest.fixture
def full(shop: Shop) -> Shop:
    """A shop with more tenants than one page looks at."""
    populate(shop, TENANTS)
    return shop


def _pages(shop: Shop, **asked: Any) -> list[dict[str, Any]]:
    """Every page from the first to the last."""
    pages: list[dict[str, Any]] = []
    while not pages or pages[-1]["next_cursor"] is not None:
        cursor = {"cursor": pages[-1]["next_cursor"]} if pages else {}
        answer = shop.rest.get(PATH, params={**asked, **cursor})
        assert answer.status_code == 200, answer.text
        pages.append(answer.json())
    return pages


def _names(pages: list[dict[str, Any]]) -> list[str]:
    return [one["tenant_id"] for page in pages for one in page["organizations"]]


def test_every_organization_is_on_one_page(full: Shop) -> None:
    """Pages of whatever size hold each organization once, in the order of the ids."""
    for limit in (7, 500, 1000):
        pages = _pages(full, limit=limit)
        assert _names(pages) == [name_of(number) for number in range(TENANTS)]
        assert all(len(page["organizations"]) == limit for page in pages[:-1])


def test_an_organization_says_what_it_has(shop: Shop) -> None:
    """The newest subscription of a product, with what it is worth now."""
    shop.subscribe("acme", "basic")
    shop.rest.post(f"{PATH}/acme/subscription/suspend")
    (page,) = _pages(shop)
    (acme,) = page["organizations"]
    (held,) = acme["subscriptions"]
    assert (acme["tenant_id"], acme["snapshot_version"]) == ("acme", 2)
    assert (held["plan"], held["plan_version"], held["status"]) == ("basic", 1, "suspended")


def test_pages_are_filtered(full: Shop) -> None:
    """By plan and by status; a page that finds little says where to go on."""
    free = _pages(full, plan="free", limit=1000)
    assert _names(free) == [name_of(number) for number in range(TENANTS) if number % 4 == 3]
    assert _names(_pages(full, plan="free", limit=20)) == _names(free)
    trialing = _names(_pages(full, status="trialing"))
    assert trialing == [name_of(number) for number in range(TENANTS) if number % 4 == 2]
    assert _names(_pages(full, plan="free", status="trialing")) == []
    nobody = _pages(full, plan="nobody-has-it")
    assert [len(page["organizations"]) for page in nobody] == [0, 0]


def test_the_list_may_be_empty(shop: Shop) -> None:
    """No organization, no cursor."""
    assert _pages(shop) == [{"organizations": [], "next_cursor": None}]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"status": "paid"}, "status"),
        ({"plan": "No Plan"}, "plan"),
        ({"cursor": "\n"}, "cursor"),
    ],
)
def test_a_malformed_question_is_refused(shop: Shop, asked: dict[str, Any], named: str) -> None:
    """The problem names the parameter."""
    answer = shop.rest.get(PATH, params=asked)
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["violations"]] == [named]
