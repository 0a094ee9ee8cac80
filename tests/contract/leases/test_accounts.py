"""The root's accounts in rows: several limits, windows, carry-over, credits, and many at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.errors import ConflictError, NotFoundError
from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.lease import Told
from entitlement_sidecar.domain.window import WindowUnit
from entitlement_sidecar.planstore.db import Database, QuotaCounterRow, create_engine_for
from entitlement_sidecar.planstore.usage.authority import RootAuthority
from entitlement_sidecar.testing.clock import FakeClock
from support.grantors import SqlGrantor, limit_of

DAY, MONTH = limit_of(10, WindowUnit.DAY), limit_of(25, WindowUnit.MONTH)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def both(database: Database, clock: FakeClock) -> SqlGrantor:
    """Ten a day and twenty-five a month."""
    return SqlGrantor(database, clock, DAY, MONTH)


def counted(grantor: SqlGrantor) -> dict[str, tuple[int, int, int]]:
    """Admitted, unadmitted and delegated of each limit."""
    rows = grantor.counters().items()
    return {key: (row.admitted, row.unadmitted, row.delegated) for key, row in rows}


def granted(grantor: SqlGrantor, name: str, wants: int, at: datetime | None = None, run_id: str = "") -> int:
    """How much a new account got."""
    outcome = grantor.open(name, wants, at, run_id)
    return 0 if outcome is None else outcome.granted


def consume(database: Database, clock: FakeClock, quantity: int, *limits: Limit) -> bool:
    """Admits at the root, as REST does."""
    authority = RootAuthority(database, clock)
    usage = authority.consume("acme", "calls", quantity, f"{quantity}-{clock.now()}", limits)
    return bool(usage.admitted)


def test_the_smallest_limit_decides(both: SqlGrantor) -> None:
    """A token is one of every limit; what was used is used in all of them."""
    assert granted(both, "one", 12) == 10
    assert counted(both) == {"day": (0, 0, 10), "month": (0, 0, 10)}

    both.settle("one", Told(2, used=4, returned=1))

    assert counted(both) == {"day": (4, 0, 5), "month": (4, 0, 5)}


def test_leases_and_consumes_share_one_limit(both: SqlGrantor, database: Database, clock: FakeClock) -> None:
    """Neither gets what the other has."""
    assert granted(both, "one", 7) == 7

    assert not consume(database, clock, 4, DAY, MONTH)
    assert consume(database, clock, 3, DAY, MONTH)
    assert granted(both, "two", 1) == 0
    assert counted(both) == {"day": (3, 0, 7), "month": (3, 0, 7)}


def test_a_lease_is_of_the_windows_that_run(both: SqlGrantor, clock: FakeClock) -> None:
    """A caller whose clock is off by more than five seconds gets none; a window that is over has none."""
    assert granted(both, "late", 1, at=NOON - timedelta(seconds=6)) == 0
    assert granted(both, "early", 1, at=NOON + timedelta(seconds=6)) == 0
    assert granted(both, "near", 1, at=NOON + timedelta(seconds=4)) == 1
    clock.advance(12 * 3600 + 2)
    assert granted(both, "over", 1, at=clock.now() - timedelta(seconds=4)) == 0


def test_a_block_may_be_laid_for_tomorrow(both: SqlGrantor, clock: FakeClock) -> None:
    """It takes from the day after and from this month; it goes on when that day has come."""
    granted(both, "today", 10)
    tomorrow = NOON + timedelta(days=1)
    assert granted(both, "block", 6, at=tomorrow, run_id="redis") == 6
    assert both.grant("block", Told(2, 0, 0), 2).granted == 2

    clock.advance(24 * 3600)

    assert both.grant("block", Told(3, 1, 0), 5).granted == 2
    assert both.free_of("day", tomorrow) == 0


def test_what_is_carried_is_not_given_out_before_its_time(database: Database, clock: FakeClock) -> None:
    """A block of tomorrow has tomorrow's amount; what today leaves over is known at midnight."""
    carrying = msgspec.structs.replace(DAY, carry_over_cap=5, before=10)
    grantor = SqlGrantor(database, clock, carrying)
    assert granted(grantor, "block", 20, at=NOON + timedelta(days=1), run_id="redis") == 10
    granted(grantor, "one", 15)
    clock.advance(24 * 3600)

    assert grantor.grant("block", Told(2, 0, 0), 20).granted == 0


def test_what_was_carried_is_granted(database: Database, clock: FakeClock) -> None:
    """Fixed at the window's first grant, as with a consume; what is still out carries nothing.

    Today began with five that were carried, which burn first: of its own ten six are used or out.
    """
    carrying = msgspec.structs.replace(DAY, carry_over_cap=5, before=10)
    grantor = SqlGrantor(database, clock, carrying)
    granted(grantor, "one", 12)
    grantor.settle("one", Told(2, used=7, returned=1))
    clock.advance(24 * 3600)

    assert granted(grantor, "two", 20) == 14


def test_credits_are_leased_grant_by_grant(database: Database, clock: FakeClock) -> None:
    """The first in burn order that has any; a lease ends when its grant does."""
    soon, later = NOON + timedelta(days=1), NOON + timedelta(days=9)
    begun = NOON - timedelta(days=1)
    grantor = SqlGrantor(database, clock)
    grantor.allowance = msgspec.structs.replace(
        grantor.allowance,
        buckets=(Bucket("g1", "g1", 3, begun, soon), Bucket("g2", "g2", 5, begun, later)),
    )

    assert [granted(grantor, name, 4) for name in ("one", "two", "three")] == [3, 4, 1]
    assert counted(grantor) == {"g1": (0, 0, 3), "g2": (0, 0, 5)}
    clock.advance(24 * 3600)
    assert grantor.terms("one", Told(2, 3, 0), 5).closed
    assert not grantor.terms("two", Told(2, 1, 2), 5).closed


def test_an_unknown_account(both: SqlGrantor) -> None:
    """Is named."""
    with pytest.raises(NotFoundError, match="no lease 'none'"):
        both.settle("none", Told(1, 0, 0))


def test_a_counter_that_lost_its_tokens(both: SqlGrantor, database: Database) -> None:
    """A database that was put back in part: said, and nothing is changed."""
    granted(both, "one", 4)
    with database.writing() as session:
        for row in session.query(QuotaCounterRow):
            row.delegated = 1

    with pytest.raises(ConflictError, match="usage reconcile"):
        both.settle("one", Told(2, used=4, returned=0))

    assert counted(both)["day"] == (0, 0, 1)


def test_many_at_once_get_all_and_no_more(database: Database, clock: FakeClock) -> None:
    """Two plan stores, many sidecars and consumes: exactly the limit, in every counter."""
    other = Database(create_engine_for(database.engine.url.render_as_string(hide_password=False)))
    limits = (limit_of(30, WindowUnit.DAY), limit_of(40, WindowUnit.MONTH))
    together = threading.Barrier(16)

    def hold(number: int) -> int:
        mine = (database, other)[number % 2]
        grantor = SqlGrantor(mine, clock, *limits)
        together.wait(30)
        got = granted(grantor, f"holder-{number}", 3)
        if got:
            got += grantor.grant(f"holder-{number}", Told(2, used=1, returned=0), 2).granted
        authority = RootAuthority(mine, clock)
        for turn in range(4):
            admitted = authority.consume("acme", "calls", 1, f"{number}-{turn}", limits).admitted
            got += bool(admitted)
        return got

    try:
        with ThreadPoolExecutor(16) as threads:
            got = sum(threads.map(hold, range(16)))
    finally:
        other.close()

    assert got == 30
    spent = {key: sum(columns) for key, columns in counted(SqlGrantor(database, clock, *limits)).items()}
    assert spent == {"day": 30, "month": 30}
