"""`Idempotency-Key`: what is sent again is done once and answered alike, whatever happens in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from entitlement_sidecar.planstore.api.idempotency import IdempotentAnswers, KeyedRequest, KeyInUseError
from entitlement_sidecar.planstore.db import IdempotencyRow, OrganizationRow, SubscriptionRow
from support.shop import AUTHORISED, Shop

PATH = "/api/billing/organizations/acme/subscription"


def send(shop: Shop, key: str, body: dict[str, Any] | None = None, path: str = PATH) -> httpx.Response:
    """One POST with a key."""
    return shop.rest.post(
        path, json={"plan": "basic"} if body is None else body, headers={**AUTHORISED, "Idempotency-Key": key}
    )


def rows(shop: Shop, kind: Any = IdempotencyRow) -> int:
    """How many rows there are."""
    with shop.database.reading() as session:
        return session.scalar(select(func.count()).select_from(kind)) or 0


def changing(shop: Shop, answer: Response) -> Callable[[], Response]:
    """A route that changes something and answers so."""

    def do() -> Response:
        with shop.database.writing() as session:
            session.add(OrganizationRow(tenant_id="made", snapshot_version=1, created_at=shop.clock.now()))
        return answer

    return do


def test_a_repeated_request_gets_its_first_answer(shop: Shop) -> None:
    """Status, body and tag are those of the first time, and a header says so."""
    first = send(shop, "k1")
    again = send(shop, "k1")
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert first.headers["etag"] == again.headers["etag"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"


def test_it_is_not_done_again(shop: Shop) -> None:
    """A cancellation in between is not undone by the repeated creation."""
    send(shop, "create")
    shop.rest.post(f"{PATH}/cancel", json={})
    again = send(shop, "create")
    assert again.json()["status"] == "active"
    assert shop.rest.get(PATH).json()["status"] in {"cancelled", "ended"}
    assert rows(shop, SubscriptionRow) == 1


def test_another_request_with_the_key_is_refused(shop: Shop) -> None:
    """Another body, another path: 422 that names the header, and nothing is done."""
    send(shop, "k1")
    for answer in (send(shop, "k1", {"plan": "free"}), send(shop, "k1", {}, f"{PATH}/cancel")):
        assert answer.status_code == 422
        assert answer.json()["reason"] == "IDEMPOTENCY_CONFLICT"
        assert answer.json()["violations"][0]["field"] == "Idempotency-Key"
    assert shop.rest.get(PATH).json()["plan"] == "basic"


def test_an_error_is_not_kept(shop: Shop) -> None:
    """What was refused may be tried again with the same key, once what was wrong is right."""
    refused = send(shop, "k1", {}, f"{PATH}/suspend")
    assert refused.status_code == 404
    assert rows(shop) == 0
    shop.subscribe()
    assert send(shop, "k1", {}, f"{PATH}/suspend").status_code == 200


def test_without_a_key_nothing_is_kept(shop: Shop) -> None:
    """Who sends no key leaves no row."""
    assert shop.rest.post(PATH, json={"plan": "basic"}).status_code == 201
    assert rows(shop) == 0


def test_a_key_is_forgotten_after_a_day(shop: Shop) -> None:
    """Then it is a new request's, and the old rows go away."""
    for number in range(3):
        send(shop, f"k{number}")
    shop.clock.advance(24 * 3600 + 1)
    answer = send(shop, "k0", {"plan": "free"})
    assert answer.status_code == 200
    assert rows(shop) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_a_malformed_key_is_refused(shop: Shop, key: str) -> None:
    """1 to 255 printable characters; the problem names the header."""
    answer = send(shop, key)
    assert answer.status_code == 422
    assert answer.json()["violations"][0]["field"].lower() == "idempotency-key"


def test_a_check_consumes_once(shop: Shop) -> None:
    """The key works where a request id would: consumed once, answered alike."""
    shop.subscribe()
    body = {"feature": "calls", "record_usage": True, "quantity": 2}
    path = "/api/billing/organizations/acme/quotas/check"
    first, again = send(shop, "c", body, path), send(shop, "c", body, path)
    assert first.json() == again.json()
    assert first.json()["used"] == 2
    assert send(shop, "d", {"feature": "calls"}, path).json()["used"] == 2


def test_what_only_reads_is_answered_anew(shop: Shop) -> None:
    """A look at a quota says what is left now; who may only read stores nothing, whatever it sends."""
    shop.subscribe()
    path = "/api/billing/organizations/acme/quotas/check"
    looked = [send(shop, "look", {"feature": "calls"}, path)]
    send(shop, "use", {"feature": "calls", "record_usage": True, "quantity": 2}, path)
    looked.append(send(shop, "look", {"feature": "calls"}, path))
    assert [one.json()["used"] for one in looked] == [0, 2]
    assert all("idempotency-replayed" not in one.headers for one in looked)
    assert rows(shop) == 1


def test_a_catalogue_is_applied_once(shop: Shop, catalogue_text: str) -> None:
    """YAML bodies too; the answer says that it changed something, as it did the first time."""
    text = catalogue_text.replace("title: Basic", "title: Basics")
    headers = {**AUTHORISED, "Idempotency-Key": "cat", "Content-Type": "application/yaml"}
    first = shop.rest.post("/api/billing/catalogue", content=text, headers=headers)
    again = shop.rest.post("/api/billing/catalogue", content=text, headers=headers)
    assert first.json()["changed"]
    assert again.json() == first.json()


def test_change_and_answer_are_kept_together_or_not_at_all(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When storing the answer fails, the change is not there either, and the same key may try again."""

    def fail(*_: object) -> None:
        raise RuntimeError("as if the process had gone")

    with monkeypatch.context() as patched:
        patched.setattr("entitlement_sidecar.planstore.api.idempotency._keep", fail)
        assert send(shop, "k1").status_code == 500
    assert (rows(shop), rows(shop, OrganizationRow)) == (0, 0)
    assert send(shop, "k1").status_code == 201


def test_many_at_once_do_it_once(shop: Shop) -> None:
    """Of concurrent requests with one key one does it; the others get its answer, or come back."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(shop, "k1"), range(16)))
    done = [one for one in answers if one.status_code == 201]
    told = [one for one in answers if one.status_code == 409]
    assert len(done) + len(told) == 16
    assert len([one for one in done if "idempotency-replayed" not in one.headers]) == 1
    assert {one.content for one in done} == {done[0].content}
    assert all(one.headers["retry-after"] == "1" for one in told)
    assert all(one.json()["reason"] == "IDEMPOTENCY_IN_PROGRESS" for one in told)
    assert rows(shop, SubscriptionRow) == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_another_replica_is_told_to_wait(shop: Shop) -> None:
    """While one replica answers, another neither does it nor waits; afterwards it has the answer."""
    asked = KeyedRequest("ada", "k", b"digest")
    replicas = [IdempotentAnswers(shop.database, shop.clock, lambda: None) for _ in range(2)]
    entered, leave = threading.Event(), threading.Event()

    def slow() -> Response:
        entered.set()
        assert leave.wait(30)
        return changing(shop, Response(b"done"))()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(replicas[0].answer, asked, slow)
        assert entered.wait(30)
        with pytest.raises(KeyInUseError):
            replicas[1].answer(asked, lambda: Response(b"twice"))
        leave.set()
        assert first.result().body == b"done"
    assert replicas[1].answer(asked, lambda: Response(b"twice")).body == b"done"


def test_a_secret_is_not_kept(shop: Shop) -> None:
    """That it was given is remembered; the text of the answer is stored nowhere."""
    answers = IdempotentAnswers(shop.database, shop.clock, lambda: None)
    asked = KeyedRequest("ada", "k", b"digest")
    given = Response(b'{"secret": "ent_x"}', headers={"Cache-Control": "no-store"})
    assert answers.answer(asked, changing(shop, given)) is given
    with shop.database.reading() as session:
        assert session.get_one(IdempotencyRow, ("ada", "k")).body == b""
    with pytest.raises(Exception, match="only once") as refused:
        answers.answer(asked, lambda: given)
    assert refused.value.reason == "ANSWER_NOT_KEPT"  # type: ignore[attr-defined]


def test_what_is_many_transactions_is_answered_alike(shop: Shop) -> None:
    """A repeatable route commits step by step; its answer is kept when it is done."""
    answers = IdempotentAnswers(shop.database, shop.clock, lambda: None)
    asked = KeyedRequest("ada", "k", b"digest")

    def do() -> Response:
        with shop.database.writing() as session:
            session.add(OrganizationRow(tenant_id="one", snapshot_version=1, created_at=shop.clock.now()))
        assert rows(shop, OrganizationRow) == 1
        return Response(b"done")

    assert answers.answer_repeatable(asked, do).body == b"done"
    assert answers.answer_repeatable(asked, do).body == b"done"


def test_what_failed_inside_and_was_handled_leaves_nothing(shop: Shop) -> None:
    """A transaction that a route opens and gives up inside a keyed request takes back its own work only."""

    def do() -> Response:
        with shop.database.writing() as session:
            session.add(OrganizationRow(tenant_id="kept", snapshot_version=1, created_at=shop.clock.now()))
        with suppress(IntegrityError), shop.database.writing() as session:
            session.add(OrganizationRow(tenant_id="lost", snapshot_version=1, created_at=shop.clock.now()))
            session.flush()
            session.add(OrganizationRow(tenant_id="kept", snapshot_version=1, created_at=shop.clock.now()))
        return Response(b"done")

    IdempotentAnswers(shop.database, shop.clock, lambda: None).answer(KeyedRequest("ada", "k", b""), do)
    with shop.database.reading() as session:
        assert session.scalars(select(OrganizationRow.tenant_id)).all() == ["kept"]
