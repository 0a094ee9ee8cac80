"""Tokens as they are stored and known: made, used, expired, revoked, guessed."""

from __future__ import annotations

import hashlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    SourceUnavailableError,
    TooManyAttemptsError,
    UnauthenticatedError,
)
from entitlement_sidecar.planstore.access import (
    Gate,
    NewToken,
    Role,
    create_token,
    list_tokens,
    register_first,
    revoke_token,
    state_of,
)
from entitlement_sidecar.planstore.access.attempts import BURST, MAX_ADDRESSES, FailedAttempts
from entitlement_sidecar.planstore.access.gate import KEPT
from entitlement_sidecar.planstore.db import ApiTokenRow, AuditRow, Database, create_engine_for
from entitlement_sidecar.testing.clock import FakeClock

PEER = "192.0.2.7"


def make(database: Database, clock: FakeClock, name: str = "ada", **more: object) -> tuple[str, str]:
    """A token's id and its header."""
    with database.writing() as session:
        wanted = NewToken(**{"name": name, "role": Role.OPERATOR, **more})  # type: ignore[arg-type]
        row, secret = create_token(session, wanted, clock.now())
    return row.id, f"Bearer {secret}"


def revoke(database: Database, clock: FakeClock, token_id: str) -> None:
    with database.writing() as session:
        revoke_token(session, token_id, clock.now())


def rows(database: Database) -> list[ApiTokenRow]:
    with database.reading() as session:
        return list(session.scalars(select(ApiTokenRow).order_by(ApiTokenRow.id)))


def test_only_the_hash_of_a_secret_is_kept(database: Database) -> None:
    """A secret has 256 random bits, and is nowhere in the database: not in its row, not in the audit log."""
    _, header = make(database, FakeClock(), tenants=["acme"])
    secret = header.removeprefix("Bearer ")

    (row,) = rows(database)
    with database.reading() as session:
        (entry,) = session.scalars(select(AuditRow))

    assert secret.startswith("ent_")
    assert len(secret) == len("ent_") + 43
    assert row.hash == hashlib.sha256(secret.encode()).digest()
    told = entry.before + entry.after + entry.resource
    assert secret not in told
    assert row.hash.hex() not in told
    assert (entry.action, entry.actor, entry.role) == ("token.created", "planstore", "system")


def test_a_token_tells_who_calls(database: Database) -> None:
    """The principal has the name, the role and the tenants that the token was made with."""
    clock = FakeClock()
    token_id, header = make(database, clock, role=Role.VIEWER, tenants=["globex", "acme", "acme"])

    principal = Gate(database, clock).admit(header, PEER)

    assert (principal.id, principal.name, principal.role) == (token_id, "ada", Role.VIEWER)
    assert principal.tenants == {"acme", "globex"}


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": " ada"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a" * 81}, "name"),
        ({"tenants": ["acme", "not a tenant"]}, "tenants[1]"),
        ({"tenants": ["a"] * 1001}, "tenants"),
        ({"life": timedelta(0)}, "expires_in"),
        ({"life": timedelta(days=3651)}, "expires_in"),
    ],
)
def test_malformed_tokens(database: Database, wanted: dict[str, object], field: str) -> None:
    """What is wrong is named, and nothing is stored."""
    with pytest.raises(InvalidInputError) as caught:
        make(database, FakeClock(), **{"name": "ada", **wanted})  # type: ignore[arg-type]
    assert [violation.field for violation in caught.value.violations] == [field]
    assert rows(database) == []


def test_names_are_unique_for_ever(database: Database) -> None:
    """The audit log names who acted: a name that was revoked is not given again."""
    clock = FakeClock()
    token_id, _ = make(database, clock)
    revoke(database, clock, token_id)
    with pytest.raises(ConflictError, match="ada"):
        make(database, clock)


def test_of_two_with_one_name_at_once_one_is_made(database: Database) -> None:
    """Names are unique also where two ask at the same time."""
    clock, ready = FakeClock(), threading.Barrier(8)

    def ask(_: int) -> bool:
        ready.wait()
        try:
            make(database, clock)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 1


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "ent_x", "Bearer ent_unknown", "Bearer " + "x" * 5000]
)
def test_whatever_is_wrong_is_one_message(
    database: Database, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller learns nothing of tokens that are not his; the log says what was wrong, and no token."""
    clock = FakeClock()
    gate = Gate(database, clock)
    revoked_id, revoked = make(database, clock, "old")
    revoke(database, clock, revoked_id)

    with pytest.raises(UnauthenticatedError) as first, caplog.at_level(logging.WARNING):
        gate.admit(header, PEER)
    with pytest.raises(UnauthenticatedError) as second:
        gate.admit(revoked, "192.0.2.8")

    assert str(first.value) == str(second.value)
    assert PEER in caplog.text
    assert "missing" in caplog.text or "unknown" in caplog.text
    assert "ent_unknown" not in caplog.text


def test_a_token_expires(database: Database) -> None:
    """To the second, also for a token that was used just before."""
    clock = FakeClock()
    gate = Gate(database, clock)
    _, header = make(database, clock, life=timedelta(seconds=100))
    clock.advance(99)
    gate.admit(header, PEER)
    clock.advance(1)
    with pytest.raises(UnauthenticatedError):
        gate.admit(header, PEER)


def test_a_revoked_token_is_refused_within_seconds(database: Database) -> None:
    """A replica that has just seen a token takes it for `KEPT` seconds more; the one told does not."""
    clock = FakeClock()
    here, there = Gate(database, clock), Gate(database, clock)
    token_id, header = make(database, clock)
    here.admit(header, PEER)
    there.admit(header, PEER)

    revoke(database, clock, token_id)
    here.forget(token_id)

    with pytest.raises(UnauthenticatedError):
        here.admit(header, PEER)
    there.admit(header, PEER)
    clock.advance(KEPT)
    with pytest.raises(UnauthenticatedError):
        there.admit(header, PEER)
    with pytest.raises(UnauthenticatedError):
        there.confirm(header)


def test_revoking_again_changes_nothing(database: Database) -> None:
    """One entry in the audit log, one instant; what is not there is said."""
    clock = FakeClock()
    token_id, _ = make(database, clock)
    revoke(database, clock, token_id)
    first = rows(database)[0].revoked_at
    clock.advance(60)
    revoke(database, clock, token_id)
    assert rows(database)[0].revoked_at == first
    with database.reading() as session:
        actions = list(session.scalars(select(AuditRow.action)))
    assert actions == ["token.created", "token.revoked"]
    with pytest.raises(NotFoundError, match="tok_0"):
        revoke(database, clock, "tok_0")


def test_lists_go_on(database: Database) -> None:
    """Pages hold each token once, the oldest first; ended ones where they are asked for."""
    clock = FakeClock()
    for name in ("a", "b", "c", "d"):
        make(database, clock, name, life=timedelta(seconds=3) if name == "b" else None)
        clock.advance(1)
    revoke(database, clock, rows(database)[2].id)

    with database.reading() as session:
        lasting = list_tokens(session, clock.now())
        first = list_tokens(session, clock.now(), ended=True, limit=3)
        rest = list_tokens(session, clock.now(), ended=True, after=first[-1].id)

    assert [row.name for row in lasting] == ["a", "d"]
    assert [row.name for row in (*first, *rest)] == ["a", "b", "c", "d"]
    states = [state_of(row, clock.now()) for row in (*first, *rest)]
    assert states == ["active", "expired", "revoked", "active"]


def test_the_first_token_is_registered_once(database: Database) -> None:
    """Replicas that start at once with one token file make one row, and a later start none."""
    clock, ready = FakeClock(), threading.Barrier(6)

    def start(_: int) -> bool:
        ready.wait()
        with database.writing() as session:
            return register_first(session, "of-the-file", clock.now())

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(start, range(6))) == 1

    (row,) = rows(database)
    assert (row.name, row.role) == ("bootstrap", "billing-admin")
    assert Gate(database, clock).admit("Bearer of-the-file", PEER).role is Role.BILLING_ADMIN


def test_the_first_token_stays_revoked(database: Database) -> None:
    """A restart does not give it back; a new token file gets a token with a name of its own."""
    clock = FakeClock()
    with database.writing() as session:
        register_first(session, "of-the-file", clock.now())
    revoke(database, clock, rows(database)[0].id)

    with database.writing() as session:
        assert not register_first(session, "of-the-file", clock.now())
    with pytest.raises(UnauthenticatedError):
        Gate(database, clock).admit("Bearer of-the-file", PEER)
    with database.writing() as session:
        assert register_first(session, "of-the-next-file", clock.now())
    assert sorted(row.name for row in rows(database)) == ["bootstrap", "bootstrap-2"]


def test_last_use_is_written_in_the_background_once_a_minute(database: Database) -> None:
    """Calls only note it; what two replicas note within a minute is one write."""
    clock = FakeClock()
    here, there = Gate(database, clock), Gate(database, clock)
    _, header = make(database, clock)

    here.admit(header, PEER)
    assert rows(database)[0].last_used_at is None
    used = clock.now()
    here.last_used.write()
    assert rows(database)[0].last_used_at == used

    clock.advance(59)
    there.admit(header, PEER)
    there.last_used.write()
    assert rows(database)[0].last_used_at == used
    clock.advance(1)
    there.admit(header, PEER)
    there.last_used.write()
    assert rows(database)[0].last_used_at == clock.now()


def test_a_database_that_is_away_is_no_wrong_token(tmp_path: object) -> None:
    """It is said to be away, and does not count as a failed attempt."""
    database = Database(create_engine_for(f"sqlite:///{tmp_path}/missing/planstore.db"))
    gate = Gate(database, FakeClock())
    for _ in range(BURST + 5):
        with pytest.raises(SourceUnavailableError):
            gate.admit("Bearer ent_x", PEER)
    database.close()


def test_who_guesses_is_slowed_down(database: Database) -> None:
    """After a burst one failure a second; who has a good token is served from the same address."""
    clock = FakeClock()
    gate = Gate(database, clock)
    _, good = make(database, clock)
    for _ in range(BURST):
        with pytest.raises(UnauthenticatedError):
            gate.admit("Bearer wrong", PEER)

    with pytest.raises(TooManyAttemptsError) as caught:
        gate.admit("Bearer wrong", PEER)

    assert caught.value.retry_after == pytest.approx(1.0)
    assert gate.admit(good, PEER).name == "ada"
    with pytest.raises(UnauthenticatedError):
        gate.admit("Bearer wrong", "192.0.2.8")
    clock.advance(1)
    with pytest.raises(UnauthenticatedError):
        gate.admit("Bearer wrong", PEER)


def test_attempts_are_counted_in_bounded_room() -> None:
    """More addresses than fit push out those that failed longest ago; an IPv6 site is one address."""
    attempts = FailedAttempts(FakeClock())
    for number in range(MAX_ADDRESSES + 100):
        attempts.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(attempts) == MAX_ADDRESSES

    waits = [attempts.failed(f"2001:db8::{number:x}") for number in range(BURST + 1)]
    assert waits[:-1] == [0.0] * BURST
    assert waits[-1] > 0
    assert attempts.failed("2001:db8:0:1::1") == 0
    assert attempts.failed("::ffff:10.9.9.9") == 0
