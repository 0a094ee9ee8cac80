"""Sinks: every accepted event goes on, in order, also where ids were taken in another order than commits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.usage import sinks
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.sinks import AcceptedEvent, JsonLinesSink, SinkFeeder, sink_of
from support.waiting import until


class Listed:
    """A sink that keeps what it gets, and fails when it is told to."""

    name = "listed"

    def __init__(self) -> None:
        self.events: list[AcceptedEvent] = []
        self.fails = False

    def write(self, events: Sequence[AcceptedEvent]) -> None:
        """Keeps them; one that fails may have kept some."""
        self.events += events
        if self.fails:
            raise OSError("no room")

    @property
    def ids(self) -> list[str]:
        """What it got, in order."""
        return [one.event.id for one in self.events]


def used(shop: Any, id_: str, **more: Any) -> UsageEvent:
    now = shop.clock.now()
    fields = {"tenant_id": "acme", "metric": "calls", "value": 1, "unit": "", "correlation_id": "w", **more}
    return UsageEvent(id=id_, occurred_at=now, recorded_at=now, **fields)


def append(session: Any, shop: Any, *ids: str) -> None:
    arrivals = [Arrival(used(shop, id_)) for id_ in ids]
    shop.ledger.append(session, arrivals, shop.clock.now())


def store(shop: Any, *ids: str) -> None:
    with shop.database.writing() as session:
        append(session, shop, *ids)


def feed(feeder: SinkFeeder) -> None:
    """Until it has nothing to do now; transactions of others on the server may hold it up a while."""
    until(lambda: feeder.step() == sinks.EVERY, "the sink to be fed", timeout=60)


def test_each_accepted_event_goes_on_once_and_in_order(shop: Any) -> None:
    """Corrections too; not what was counted before, or is held in quarantine."""
    sink = Listed()
    feeder = SinkFeeder(shop.database, sink, shop.clock)
    store(shop, "a", "b")
    feed(feeder)
    with shop.database.writing() as session:
        more = [
            used(shop, "b"),
            used(shop, "c", metric="steps"),
            used(shop, "d"),
            used(shop, "k", corrects="a"),
        ]
        shop.ledger.append(session, [Arrival(one) for one in more], shop.clock.now())
    feed(feeder)
    feed(SinkFeeder(shop.database, sink, shop.clock))

    assert sink.ids == ["a", "b", "d", "k"]
    cursors = [one.cursor for one in sink.events]
    assert cursors == sorted(set(cursors))
    assert (sink.events[0].event.unit, sink.events[0].event.classification) == ("call", 1)


def test_a_sink_that_fails_gets_the_same_again(shop: Any) -> None:
    """The cursor moves after the write, and never past what was not written."""
    sink = Listed()
    feeder = SinkFeeder(shop.database, sink, shop.clock)
    store(shop, "a", "b")
    sink.fails = True
    with pytest.raises(OSError, match="no room"):
        feed(feeder)
    sink.fails = False
    store(shop, "c")
    feed(feeder)
    feed(feeder)
    assert sink.ids == ["a", "b", "a", "b", "c"]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_commits_late_is_not_left_out(shop: Any) -> None:
    """The first of two writers to take ids commits last: it is not skipped, and order is that of ids."""
    sink = Listed()
    feeder = SinkFeeder(shop.database, sink, shop.clock)
    with shop.database.writing() as slow:
        append(slow, shop, "slow-1", "slow-2")
        with ThreadPoolExecutor(1) as beside:
            beside.submit(_store_elsewhere, shop, "quick").result(timeout=60)
        for _ in range(3):
            assert feeder.step() == sinks.SOON
        assert sink.ids == []
    feed(feeder)
    feed(feeder)
    assert sink.ids == ["slow-1", "slow-2", "quick"]


def _store_elsewhere(shop: Any, id_: str) -> None:
    """Another tenant's event, so that nothing waits for the transaction that is open."""
    with shop.database.writing() as session:
        arrival = Arrival(used(shop, id_, tenant_id="globex"))
        [result] = shop.ledger.append(session, [arrival], shop.clock.now())
    assert result.outcome.name == "ACCEPTED"


def test_an_identity_is_claimed_before_an_event_takes_its_id(shop: Any) -> None:
    """On which the horizon rests: a transaction has its number before it takes an id."""
    said: list[str] = []
    sqlalchemy_event.listen(
        shop.database.engine, "before_cursor_execute", lambda _c, _u, statement, *_: said.append(statement)
    )
    store(shop, "a")
    writes = [one for one in said if "INSERT INTO" in one]
    first = {table: next(n for n, one in enumerate(writes) if f"INTO {table} " in one) for table in _TABLES}
    assert first["usage_event_keys"] < first["usage_events"]


_TABLES = ("usage_event_keys", "usage_events")


def test_two_replicas_feed_one_sink(shop: Any) -> None:
    """At once they get in nobody's way, and each event is written by one of them."""
    sink = Listed()
    ids = [f"e{n}" for n in range(40)]
    feeders = [SinkFeeder(shop.database, sink, shop.clock) for _ in range(2)]
    with ThreadPoolExecutor(2) as both:
        for start in range(0, 40, 10):
            store(shop, *ids[start : start + 10])
            list(both.map(feed, feeders))
    feed(feeders[0])
    assert sink.ids == ids


def test_lines_are_whole_whatever_becomes_of_the_file(shop: Any, tmp_path: Path) -> None:
    """A line that a crash cut off is written again; a file that was moved away is begun anew."""
    path = tmp_path / "usage.jsonl"
    sink = sink_of(f"jsonl:{path}")
    assert isinstance(sink, JsonLinesSink)
    feeder = SinkFeeder(shop.database, sink, shop.clock)
    store(shop, "a")
    feed(feeder)
    with path.open("ab") as file:
        file.write(b'{"cursor": 2, "id": "to')
    store(shop, "b")
    feed(feeder)
    first = [json.loads(line) for line in path.read_text().splitlines()]
    path.rename(tmp_path / "moved")
    store(shop, "c")
    feed(feeder)

    assert [(one["cursor"], one["id"]) for one in first] == [(1, "a"), (2, "b")]
    assert first[0]["occurred_at"] == "2026-01-31T12:00:00Z"
    assert (first[0]["classification"], first[0]["tenant_id"], first[0]["value"]) == ("billable", "acme", 1)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["c"]
    assert path.stat().st_mode & 0o007 == 0
    [seen] = shop.rest.get("/api/billing/usage/sinks").json()["sinks"]
    assert (seen["name"], seen["cursor"], seen["events"], seen["behind"]) == (f"jsonl:{path}", 3, 3, 0)


def test_a_setting_that_names_no_sink_is_refused(tmp_path: Path) -> None:
    """It says what would be right; none is none."""
    assert sink_of("") is None
    for setting in ("kafka:x", "jsonl:usage.jsonl", f"jsonl:{tmp_path}", f"jsonl:{tmp_path}/none/usage"):
        with pytest.raises(ConfigurationError, match="--usage-sink"):
            sink_of(setting)
