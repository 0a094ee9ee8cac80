"""What is behind a sidecar, or the sidecar itself, is away, broken or wrong: the usage of DESIGN 10.

Whatever happens, an event that was accepted is in the ledger once, in the end. A full disk has tests of its
own (`test_disk_full_usage.py`), and so has SIGKILL at any instant (`test_usage_kills.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.testing.fault_proxy import FaultProxy
from entitlement_sidecar.wire.v1 import usage_pb2
from support.careless_network import CarelessNetwork
from support.faulty_site import PATIENCE, FaultySite
from support.jumping_clock import JumpingClock
from support.outbox_books import epochs, queued
from support.processes import Sidecar
from support.waiting import until

Fault = Callable[[FaultProxy], None]

AWAY: dict[str, Fault] = {
    "refused": lambda proxy: proxy.refuse(),
    "black hole": lambda proxy: proxy.black_hole(),
}
HOUR = 3600.0
ACCEPTED, DUPLICATE = UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE


@pytest.fixture
def site(faulty_site: FaultySite) -> FaultySite:
    """What is broken here."""
    return faulty_site


class Reports:
    """Usage of one tenant: what a sidecar has accepted of it, and what the ledger says."""

    def __init__(self, site: FaultySite, beside: Sidecar | None = None) -> None:
        self.accepted: set[str] = set()
        self.tenant = site.held()
        self._site = site
        self._beside = beside or site.beside

    def report(self, count: int = 5) -> None:
        """New events, all of them accepted."""
        first = len(self.accepted)
        ids = [f"e{number}" for number in range(first, first + count)]
        assert self.send(*(self.event(id_) for id_ in ids)) == [ACCEPTED] * count
        self.accepted.update(ids)

    def event(self, id_: str, occurred_at: datetime | None = None) -> usage_pb2.UsageEvent:
        """One event; without an instant it happens when it is recorded."""
        event = usage_pb2.UsageEvent(
            id=id_, tenant_id=self.tenant, metric="calls", value=1, correlation_id=f"work-{id_}"
        )
        if occurred_at is not None:
            event.occurred_at.FromDatetime(occurred_at)
        return event

    def send(self, *events: usage_pb2.UsageEvent) -> list[UsageOutcome]:
        """Reports, and what the sidecar says."""
        return [UsageOutcome(result.outcome) for result in self._beside.report(events)]

    def consume(self) -> None:
        """A CONSUME that is allowed: its event is accepted too."""
        decision = self._beside.consume(self.tenant, "calls", request_id="r1")
        assert decision.allowed, decision
        self.accepted.add(decision.consumption_id)

    def stored(self) -> list[str]:
        """Ids in the ledger."""
        path = f"/api/billing/organizations/{self.tenant}/usage/events"
        answer = self._site.store.rest("GET", path, params={"limit": 1000})
        assert answer.is_success, answer.text
        return [event["event_id"] for event in answer.json()["events"]]

    def all_arrive(self) -> None:
        """Waits until everything is settled: then it is in the ledger, each once, and nothing else is."""
        state = self._beside.state
        until(lambda: queued(state) == 0, "the outbox to be empty", 2 * PATIENCE)
        assert sorted(self.stored()) == sorted(self.accepted)
        for totals in epochs(state).values():
            assert totals["accepted"] == totals["settled"] + totals["dead"] + totals["lost"]

    def wait_on_disk(self) -> None:
        """Nothing of them was settled, and nothing is lost."""
        assert queued(self._beside.state) == len(self.accepted)


@pytest.fixture
def reports(site: FaultySite) -> Reports:
    """Of a tenant that the sidecar holds; the outbox is empty when the test begins."""
    until(lambda: queued(site.beside.state) == 0, "the outbox to be empty", 2 * PATIENCE)
    return Reports(site)


@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
def test_plan_store_away(site: FaultySite, reports: Reports, fault: Fault) -> None:
    """Reports are accepted and queued on disk; they are in the ledger once the plan store is back."""
    fault(site.to_store)

    reports.report()

    reports.wait_on_disk()
    site.to_store.heal()
    reports.all_arrive()


def test_plan_store_killed(site: FaultySite, reports: Reports) -> None:
    """The same, and what was accepted before counts once too."""
    reports.report()
    site.store.kill()
    reports.report()

    site.store.start(migrated=True)

    reports.all_arrive()


@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
def test_redis_away(site: FaultySite, reports: Reports, fault: Fault) -> None:
    """Usage does not need Redis: all of it arrives while Redis is away."""
    fault(site.to_redis)

    reports.report()
    reports.consume()

    reports.all_arrive()


def test_redis_flushed(site: FaultySite, reports: Reports) -> None:
    """Nor what is in it."""
    with redis.Redis(port=site.redis.port) as client:
        client.flushall()

    reports.report()
    reports.consume()

    reports.all_arrive()


@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
def test_both_away(site: FaultySite, reports: Reports, fault: Fault) -> None:
    """Queued on disk."""
    fault(site.to_redis)
    fault(site.to_store)

    reports.report()

    reports.wait_on_disk()
    site.to_redis.heal()
    site.to_store.heal()
    reports.all_arrive()


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_both_away_and_the_sidecar_restarts(site: FaultySite, reports: Reports, end: str) -> None:
    """Nothing is lost, and usage is accepted by the catalogue that the sidecar last knew."""
    reports.consume()
    reports.all_arrive()
    site.to_redis.refuse()
    site.to_store.refuse()
    reports.report()
    waiting = queued(site.beside.state)

    if end == "killed":
        site.beside.kill()
    else:
        site.beside.stop()
    assert queued(site.beside.state) == waiting
    site.beside.start()

    repeated = reports.event("e1")
    assert reports.send(repeated) == [DUPLICATE]
    reports.report()
    assert queued(site.beside.state) == waiting + 5
    site.to_redis.heal()
    site.to_store.heal()
    reports.all_arrive()


@pytest.fixture
def clock(tmp_path: Path) -> JumpingClock:
    """A sidecar's."""
    return JumpingClock(tmp_path)


@pytest.fixture
def jumping(site: FaultySite, clock: JumpingClock, tmp_path: Path) -> Iterator[Reports]:
    """Usage at a sidecar whose clock jumps."""
    beside = site.sidecar(f"jumping-{tmp_path.name}", env=clock.environment)
    yield Reports(site, beside)
    beside.kill()


def test_clock_an_hour_ahead(jumping: Reports, clock: JumpingClock) -> None:
    """What happened by the right clock is an hour old, and counts; what is repeated counts once."""
    now = datetime.now(UTC)
    event = jumping.event("by-the-right-clock", now)
    jumping.report()
    assert jumping.send(event) == [ACCEPTED]

    clock.set(HOUR)

    jumping.report()
    assert jumping.send(event)[0] in {ACCEPTED, DUPLICATE}
    assert jumping.send(jumping.event("an-hour-old", now)) == [ACCEPTED]
    assert jumping.send(jumping.event("years-old", now - timedelta(days=400))) == [UsageOutcome.LATE_REFUSED]
    clock.set(0)
    jumping.report()
    jumping.accepted |= {"by-the-right-clock", "an-hour-old"}
    jumping.all_arrive()


def test_clock_an_hour_behind(jumping: Reports, clock: JumpingClock) -> None:
    """What happened by the right clock is refused as of the future; what has no instant counts."""
    clock.set(-HOUR)

    jumping.report()
    assert jumping.send(jumping.event("ahead", datetime.now(UTC))) == [UsageOutcome.INVALID]

    clock.set(0)
    assert jumping.send(jumping.event("ahead", datetime.now(UTC))) == [ACCEPTED]
    jumping.report()
    jumping.accepted.add("ahead")
    jumping.all_arrive()


def test_slow_upstream(site: FaultySite, reports: Reports) -> None:
    """Batches take long: reports are answered at once all the same, and arrive once."""
    site.to_store.latency(1.0)

    for _ in range(5):
        reports.report()

    site.to_store.heal()
    reports.all_arrive()


def test_partial_errors_and_duplicate_acks(site: FaultySite, tmp_path: Path) -> None:
    """Batches are lost, doubled, late and cut off, and their answers too: each event counts once."""
    with ExitStack() as ending:
        network = ending.enter_context(CarelessNetwork(site.store.grpc_port, seed=7))
        token = ("--token-file", str(site.store.state / "token"))
        beside = Sidecar(tmp_path / "careless", "--planstore", f"127.0.0.1:{network.port}", *token)
        ending.callback(beside.kill)
        beside.start()
        reports = Reports(site, beside)

        def seen_all() -> bool:
            reports.report()
            until(lambda: queued(beside.state) < 50, "some to be settled", 2 * PATIENCE)
            return set(network.fates) >= {"on", "twice", "late", "unanswered", "in part", "lost"}

        until(seen_all, "every fate of a batch", 3 * PATIENCE)
        network.honest = True
        until(lambda: queued(beside.state) == 0, "the outbox to be empty", 2 * PATIENCE)
        network.deliver_late()
        reports.all_arrive()
