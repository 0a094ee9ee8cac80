"""Optimistic locking over HTTP: tags of what has a version, and what happens to who holds an old one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support.shop import AUTHORISED, Shop

PATH = "/api/billing/organizations/acme/subscription"


def sent(shop: Shop, tag: str, change: str = "suspend") -> httpx.Response:
    """A change under `If-Match`."""
    return shop.rest.post(f"{PATH}/{change}", json={}, headers={**AUTHORISED, "If-Match": tag})


def test_what_has_a_version_has_a_tag(shop: Shop) -> None:
    """The tag begins with the version, also of what a change answers."""
    shop.subscribe()
    got = shop.rest.get(PATH)
    assert got.headers["etag"].startswith(f'"{got.json()["version"]}-')
    assert shop.rest.post(f"{PATH}/suspend", json={}).headers["etag"].startswith('"2-')


def test_who_has_the_answer_already_gets_no_body(shop: Shop) -> None:
    """304 with the tag while nothing has changed; afterwards the new answer."""
    shop.subscribe()
    tag = shop.rest.get(PATH).headers["etag"]
    for held in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = shop.rest.get(PATH, headers={**AUTHORISED, "If-None-Match": held})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    shop.rest.post(f"{PATH}/suspend", json={})
    assert shop.rest.get(PATH, headers={**AUTHORISED, "If-None-Match": tag}).json()["status"] == "suspended"


def test_what_time_has_changed_is_not_held(shop: Shop) -> None:
    """A trial that has ended since is another answer, though nobody has changed it."""
    shop.subscribe(plan="trial")
    tag = shop.rest.get(PATH).headers["etag"]
    shop.clock.advance(20 * 24 * 3600)
    answer = shop.rest.get(PATH, headers={**AUTHORISED, "If-None-Match": tag})
    assert answer.status_code == 200
    assert answer.json()["status"] != "trialing"


def test_a_change_of_the_version_that_was_read(shop: Shop) -> None:
    """The whole tag, or the version alone."""
    shop.subscribe()
    assert sent(shop, shop.rest.get(PATH).headers["etag"]).status_code == 200
    assert sent(shop, '"2"', "resume").status_code == 200


def test_a_change_of_an_old_version_is_refused(shop: Shop) -> None:
    """412 says which version it has now, and its tag makes the next attempt right."""
    shop.subscribe()
    old = shop.rest.get(PATH).headers["etag"]
    sent(shop, old)
    refused = sent(shop, old, "cancel")
    assert refused.status_code == 412
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["reason"] == "PRECONDITION_FAILED"
    assert refused.json()["current_version"] == 2
    assert sent(shop, refused.headers["etag"], "cancel").status_code == 200


def test_an_expected_version_of_the_body_conflicts(shop: Shop) -> None:
    """409 with the version that it has now."""
    shop.subscribe()
    refused = shop.rest.post(f"{PATH}/suspend", json={"expected_version": 7})
    assert (refused.status_code, refused.json()["reason"]) == (409, "STALE_VERSION")
    assert refused.json()["current_version"] == 1
    assert refused.headers["etag"] == '"1"'


def test_header_and_body_must_not_differ(shop: Shop) -> None:
    """Two versions are two opinions: nothing is guessed."""
    shop.subscribe()
    headers = {**AUTHORISED, "If-Match": '"1"'}
    answer = shop.rest.post(f"{PATH}/suspend", json={"expected_version": 2}, headers=headers)
    assert (answer.status_code, answer.json()["violations"][0]["field"]) == (422, "expected_version")
    assert shop.rest.post(f"{PATH}/suspend", json={"expected_version": 1}, headers=headers).status_code == 200


@pytest.mark.parametrize("tag", ["", "3", '"x"', "*", 'W/"1"', '"1", "2"', '"-1"', '"' + "9" * 30 + '"'])
def test_a_malformed_tag_is_refused(shop: Shop, tag: str) -> None:
    """422 names the header and shows a tag."""
    shop.subscribe()
    answer = sent(shop, tag)
    assert (answer.status_code, answer.json()["violations"][0]["field"]) == (422, "If-Match")
    assert '"3"' in answer.json()["detail"]


def test_of_two_who_change_the_same_version_one_wins(shop: Shop) -> None:
    """The other is told the version that there is now."""
    shop.subscribe()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda change: sent(shop, '"1"', change), ("suspend", "past-due")))
    assert sorted(one.status_code for one in answers) == [200, 412]
    lost = max(answers, key=lambda one: one.status_code)
    assert lost.json()["current_version"] == 2
