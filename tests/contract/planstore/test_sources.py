"""Conservation at ingest: each sequence is counted once, and what never came is known, on both databases."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from entitlement_sidecar.planstore.ingest.servicer import UsageIngestServicer
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.attention import Attention
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.planstore.usage.sources import COUNTS, Source, SourceQuery, sources
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.v1 import usage_pb2
from support.ingesting import sent_event

Range = tuple[int, int]
KINDS = ("fine", "fine", "fine", "no metric", "malformed", "twice", "other content")


class Sidecars:
    """What sidecars send to one plan store, in this process."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        self.ingest = UsageIngestServicer(shop.database, Ledger(limits_of), shop.clock).ingest

    def send(
        self, *events: tuple[int, usage_pb2.UsageEvent], declared: list[Range] | None = None, **more: Any
    ) -> tuple[list[str], list[Range]]:
        """One batch of (sequence, event): outcomes, and what is missing."""
        request = usage_pb2.IngestBatchRequest(
            **{"instance": "i-1", "epoch": 1, "batch_id": 1, **more},
            events=[usage_pb2.SequencedEvent(sequence=number, event=event) for number, event in events],
            declared=[usage_pb2.SequenceRange(first=first, last=last) for first, last in declared or ()],
        )
        results, missing = self.ingest(request)
        return [result.outcome.name for result in results], missing

    def source(self, instance: str = "i-1") -> Source:
        """What the plan store knows of it."""
        with self.shop.database.reading() as session:
            [found] = sources(session, SourceQuery(instance), self.shop.clock.now())
        return found


@pytest.fixture
def sidecars(shop: Any) -> Sidecars:
    """With one tenant to report for."""
    shop.subscribe()
    return Sidecars(shop)


def made(number: int, kind: str) -> usage_pb2.UsageEvent:
    """An event that is fine, or wrong in one of the ways in which they are."""
    match kind:
        case "no metric":
            return sent_event(f"e{number}", metric="faxes")
        case "malformed":
            return sent_event(f"e{number}", value=-1)
        case "twice":
            return sent_event("the same")
        case "other content":
            return sent_event("the same", value=number)
        case _:
            return sent_event(f"e{number}")


@pytest.mark.parametrize("seed", range(4))
def test_each_sequence_is_counted_once(sidecars: Sidecars, seed: int) -> None:
    """Batches of any size, in any order, sent again whole or in part; some sequences are declared."""
    chance = random.Random(seed)  # noqa: S311 - a history, not a secret
    outbox = {number: made(number, chance.choice(KINDS)) for number in range(1, 121)}
    lost = set(chance.sample(sorted(outbox), 10))
    seen: set[int] = set()
    declared: set[int] = set()
    for _ in range(40):
        batch = chance.sample(sorted(outbox.keys() - lost), chance.randint(1, 25))
        given_up = chance.sample(sorted(lost), chance.randint(0, 2))
        outcomes, missing = sidecars.send(
            *((number, outbox[number]) for number in batch),
            declared=[(number, number) for number in given_up],
            accepted_total=len(outbox),
        )
        seen |= set(batch)
        declared |= set(given_up)
        known = seen | declared

        source = sidecars.source()
        assert len(outcomes) == len(batch)
        assert sum(getattr(source.row, name) for name in COUNTS) == len(known)
        assert source.row.declared == len(declared)
        assert {n for first, last in missing for n in range(first, last + 1)} == {
            number for number in range(1, min(batch)) if number not in known
        }
        assert source.outstanding == len(outbox) - len(known)


def test_sources_are_told_apart(sidecars: Sidecars) -> None:
    """Each start of each sidecar has numbers of its own; totals only grow, whichever batch comes last."""
    sidecars.send((1, sent_event("a")), accepted_total=5)
    sidecars.send((2, sent_event("b")), accepted_total=3)
    sidecars.send((1, sent_event("c")), epoch=2)
    sidecars.send((1, sent_event("c")), instance="i-2")

    told = sidecars.shop.rest.get("/api/billing/usage/sources").json()["sources"]
    assert [(one["instance"], one["epoch"], one["stored"], one["duplicates"]) for one in told] == [
        ("i-1", 1, 2, 0),
        ("i-1", 2, 1, 0),
        ("i-2", 1, 0, 1),
    ]
    assert (told[0]["accepted_total"], told[0]["outstanding"]) == (5, 3)


def test_what_never_came_is_told_until_it_is_declared(sidecars: Sidecars) -> None:
    """A gap before a batch is asked for; declared, it is counted and asked for no more."""
    _, first = sidecars.send((3, sent_event("c")), (7, sent_event("g")))
    _, second = sidecars.send((8, sent_event("h")), declared=[(1, 2), (5, 5)])
    _, third = sidecars.send((9, sent_event("i")), declared=[(4, 6)])

    assert (first, second, third) == ([(1, 2)], [(4, 4), (6, 6)], [])
    assert sidecars.source().row.declared == 5


def test_a_source_that_falls_silent(sidecars: Sidecars) -> None:
    """It accepted what never came, and says nothing for a quarter of an hour: an alert, and a list."""
    shop = sidecars.shop
    look = Attention(shop.database, shop.clock)
    sidecars.send((1, sent_event("a")), accepted_total=3)
    sidecars.send((1, sent_event("b")), instance="done", accepted_total=1)
    look.step()
    at_once = metrics.REGISTRY.get_sample_value("entitlement_usage_sources_silent")
    shop.clock.advance(timedelta(minutes=16).total_seconds())
    look.step()

    told = shop.rest.get("/api/billing/usage/sources", params={"silent": "true"}).json()["sources"]
    assert (at_once, metrics.REGISTRY.get_sample_value("entitlement_usage_sources_silent")) == (0, 1)
    assert [(one["instance"], one["outstanding"], one["silent"]) for one in told] == [("i-1", 2, True)]


def test_one_batch_at_two_replicas_at_once(shop: Any) -> None:
    """200 times: each event counts once, and each sequence is counted once, whoever is first."""
    shop.subscribe()
    replicas = [Sidecars(shop), Sidecars(shop)]
    with ThreadPoolExecutor(2) as pool:
        for number in range(200):
            batch = [(number * 3 + n, sent_event(f"e{number}-{n}")) for n in (1, 2, 3)]
            both = list(pool.map(lambda one, batch=batch: one.send(*batch, accepted_total=600)[0], replicas))
            assert sorted(both) in (
                [["ACCEPTED"] * 3, ["DUPLICATE"] * 3],
                [["DUPLICATE"] * 3, ["ACCEPTED"] * 3],
            )

    source = replicas[0].source()
    total = shop.rest.get("/api/billing/organizations/acme/usage").json()["usage"][0]
    assert (source.row.stored + source.row.duplicates, source.outstanding, source.missing) == (600, 0, [])
    assert (total["value"], total["event_count"]) == (600, 600)
