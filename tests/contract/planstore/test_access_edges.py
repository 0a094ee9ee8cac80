"""Access where several things happen at once, and where somebody means harm."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.errors import UnauthenticatedError
from entitlement_sidecar.planstore.access import Gate, NewToken, Role, create_token, revoke_token
from entitlement_sidecar.planstore.access import gate as gate_module
from entitlement_sidecar.planstore.access.gate import KEPT
from entitlement_sidecar.planstore.db import ApiTokenRow
from support.shop import AUTHORISED, Shop

PEER = "192.0.2.7"
ACME = "/api/billing/organizations/acme"


def make(shop: Shop) -> tuple[str, str]:
    """A token's id and its header."""
    with shop.database.writing() as session:
        row, secret = create_token(session, NewToken(name="ada", role=Role.VIEWER), shop.clock.now())
    return row.id, f"Bearer {secret}"


def elsewhere(do: Callable[[], object]) -> None:
    """In another thread, to its end."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(do).result()


def in_between(
    monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]
) -> Callable[[Session, bytes], ApiTokenRow | None]:
    """Has something happen after a token was read, and before the gate makes something of it."""
    find = gate_module.find_token

    def found(session: Session, hashed: bytes) -> ApiTokenRow | None:
        row = find(session, hashed)
        elsewhere(do)
        return row

    monkeypatch.setattr(gate_module, "find_token", found)
    return find


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
def test_a_revoked_token_is_not_remembered_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, key: dict[str, str]
) -> None:
    """Whoever shows it while it is being revoked gets in at most once: with a key the commit comes later."""
    token_id, header = make(shop)
    shop.gate.admit(header, PEER)
    forget = Gate.forget

    def shown_at_once(gate: Gate, one: str) -> None:
        forget(gate, one)
        with suppress(UnauthenticatedError):
            elsewhere(lambda: gate.admit(header, PEER))

    monkeypatch.setattr(Gate, "forget", shown_at_once)
    path = f"/api/billing/tokens/{token_id}/revoke"
    assert shop.rest.post(path, headers={**AUTHORISED, **key}).status_code == 200

    with pytest.raises(UnauthenticatedError):
        shop.gate.admit(header, PEER)


def test_a_token_that_is_revoked_while_it_is_looked_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before is not kept after: the next call is refused."""
    token_id, header = make(shop)

    def revoke() -> None:
        with shop.database.writing() as session:
            revoke_token(session, token_id, shop.clock.now())
        shop.gate.forget(token_id)

    with monkeypatch.context() as patched:
        in_between(patched, revoke)
        shop.gate.admit(header, PEER)

    with pytest.raises(UnauthenticatedError):
        shop.gate.admit(header, PEER)


def test_a_slow_database_does_not_prolong_what_is_kept(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds count from before the look, so that another replica's revocation takes effect in time."""
    _, header = make(shop)
    with monkeypatch.context() as patched:
        in_between(patched, lambda: shop.clock.advance(KEPT))
        shop.gate.admit(header, PEER)
    assert shop.gate.known(header) is None


def test_a_revocation_that_fails_forgets_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken back has no effect beside the database either."""
    token_id, header = make(shop)
    shop.gate.admit(header, PEER)

    def fail(*_: object) -> None:
        raise RuntimeError("as if the process had gone")

    monkeypatch.setattr("entitlement_sidecar.planstore.api.idempotency._keep", fail)
    keyed = {**AUTHORISED, "Idempotency-Key": "k"}
    assert shop.rest.post(f"/api/billing/tokens/{token_id}/revoke", headers=keyed).status_code == 500
    assert shop.gate.known(header) is not None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/billing/audit?actor=%00"),
        ("GET", "/api/billing/tokens?cursor=a%00"),
        ("POST", "/api/billing/tokens/%00/revoke"),
        ("GET", f"{ACME}/history?cursor=%00"),
        ("GET", f"{ACME}/overrides/%00"),
    ],
)
def test_nul_in_a_url_is_refused(shop: Shop, method: str, path: str) -> None:
    """PostgreSQL stores no NUL and fails where it is looked for: that is the caller's error, on either."""
    answer = shop.rest.request(method, path)
    assert answer.status_code == 422
    assert answer.json()["reason"] == "INVALID_INPUT"
    assert shop.rest.request(method, path, headers={}).status_code == 401


@pytest.mark.parametrize(
    ("began", "after"), [("0001-01-01T00:00:00+14:00", "a"), ("2026-01-01T00:00:00Z", "a\0")]
)
def test_a_cursor_that_nobody_gave(shop: Shop, began: str, after: str) -> None:
    """One that is put together by hand is refused where no database could take it."""
    cursor = base64.urlsafe_b64encode(json.dumps([began, True, after]).encode()).decode()
    answer = shop.rest.post("/api/billing/snapshots/republish", json={"cursor": cursor})
    assert answer.status_code == 422
    assert answer.json()["violations"][0]["field"] == "cursor"


def test_a_key_is_of_one_version(shop: Shop) -> None:
    """The same change of another version is another request: it is not told that it was done."""
    shop.subscribe()
    path = f"{ACME}/subscription/suspend"
    keyed = {**AUTHORISED, "Idempotency-Key": "k"}
    assert shop.rest.post(path, headers={**keyed, "If-Match": '"1"'}).status_code == 200
    again = shop.rest.post(path, headers={**keyed, "If-Match": '"1"'})
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    for other in ({"If-Match": '"7"'}, {}):
        answer = shop.rest.post(path, headers={**keyed, **other})
        assert (answer.status_code, answer.json()["reason"]) == (422, "IDEMPOTENCY_CONFLICT")
