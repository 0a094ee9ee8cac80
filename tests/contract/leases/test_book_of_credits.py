"""A sidecar's lease book and a real root agree on which credit grants burn."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.catalogue import Feature
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.planstore.api.rpc_quotas import QuotaServicer
from entitlement_sidecar.planstore.db import Database, QuotaCounterRow, create_engine_for
from entitlement_sidecar.planstore.snapshots import in_force
from entitlement_sidecar.planstore.subscriptions import CreditRequest
from entitlement_sidecar.sidecar.adapters.grpc_authority import PlanStoreAuthority
from entitlement_sidecar.sidecar.adapters.grpc_leases import RootGrantor
from entitlement_sidecar.sidecar.leases.asking import Means
from entitlement_sidecar.sidecar.leases.book import LeaseBook
from entitlement_sidecar.sidecar.leases.views import UsageViews
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.testing.memory_journal import MemoryJournal
from entitlement_sidecar.wire.v1 import quota_pb2, quota_pb2_grpc
from support.leasing import PLENTY
from support.shop import NOW, Shop


@pytest.fixture
def shop(sqlite_template: Path, tmp_path: Path) -> Iterator[Shop]:
    """A tenant with 10 tokens, which burn first, and 50 more that live longer."""
    copy = tmp_path / "planstore.db"
    shutil.copyfile(sqlite_template, copy)
    database = Database(create_engine_for(f"sqlite:///{copy}"))
    opened = Shop(database)
    opened.apply(PLENTY)
    opened.subscribe(plan="large")
    for amount, days in ((10, 10), (50, 20)):
        with database.writing() as session:
            until = NOW + timedelta(days=days)
            asked = CreditRequest(feature="tokens", amount=amount, reason="gift", until=until)
            opened.credits.grant(session, "acme", asked)
    yield opened
    database.close()


class Caller:
    """Uses tokens through a lease book."""

    def __init__(self, shop: Shop, channel: grpc.aio.Channel) -> None:
        clock = FakeClock(NOW)
        holder = quota_pb2.Holder(instance="one", epoch=1)
        authority = UsageViews(PlanStoreAuthority(channel, "token", holder), clock)
        means = Means(RootGrantor(channel, "token"), None, MemoryJournal("one"), clock)
        self.book = LeaseBook(authority, means)
        self.feature, self.resolution = _of(shop)
        self._requests = 0

    async def consume(self, quantity: int) -> QuotaUsage:
        """One consumption, kept if it is admitted."""
        self._requests += 1
        ask = QuotaAsk(self.feature, quantity, self.resolution)
        outcome = self.book.consume("acme", ask, f"request {self._requests}")
        usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
        if usage.admitted:
            self.book.kept(usage.lease_id, quantity)
        return usage


def _of(shop: Shop) -> tuple[Feature, Resolution]:
    with shop.database.reading() as session:
        held = in_force(session, "acme", "tokens", NOW)
    assert held.feature is not None
    assert held.resolution is not None
    return held.feature, held.resolution


@pytest.fixture
async def caller(shop: Shop) -> AsyncIterator[Caller]:
    """The only one."""
    server = grpc.server(ThreadPoolExecutor(4))
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(QuotaServicer(shop.quotas), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Caller(shop, channel)
    server.stop(None).wait()


def burnt(usage: QuotaUsage) -> list[int]:
    """What a call took of each grant."""
    return [limit.taken for limit in usage.limits]


async def test_grants_burn_in_order_of_leases_and_of_the_root(shop: Shop, caller: Caller) -> None:
    """Given uses of all tokens, then each says what it burnt, and the root counted the same of each grant."""
    answers = [await caller.consume(4) for _ in range(15)]
    refused = await caller.consume(4)
    await caller.book.close(30)

    assert all(answer.admitted for answer in answers)
    assert refused.admitted is False
    assert [sum(of_one) for of_one in zip(*map(burnt, answers), strict=True)] == [10, 50]
    assert sum(burnt(answers[0])) == 4
    assert any(answer.lease_id.startswith("lease:") for answer in answers)
    with shop.database.reading() as session:
        rows = session.scalars(select(QuotaCounterRow).where(QuotaCounterRow.feature == "tokens"))
        assert sorted((row.admitted, row.delegated) for row in rows) == [(10, 0), (50, 0)]
