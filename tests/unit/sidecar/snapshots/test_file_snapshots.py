"""A snapshot file: its word is the plan store's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from entitlement_sidecar.domain.clock import SystemClock
from entitlement_sidecar.sidecar.adapters.file_snapshots import FileSnapshots
from entitlement_sidecar.sidecar.snapshots.follower import Follower
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.store import SnapshotStore
from entitlement_sidecar.telemetry import metrics

HEAD = """
catalogue: shop
features:
  sso: {kind: boolean}
plans:
  basic:
    title: Basic
    price: {amount: "1.00", currency: EUR}
    billing_period: month
    entitlements:
      sso: true
tenants:
"""
BOTH = HEAD + "  acme: {plan: basic}\n  other: {plan: basic}\n"
ONE = HEAD + "  other: {plan: basic}\n"


class Site:
    """A store that follows a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text(BOTH)
        self.clock = SystemClock()
        self.store, self.freshness = SnapshotStore(), Freshness(self.clock)
        self.file = FileSnapshots(path, self.clock, look_every=0.01)
        self.loader = Loader(self.store, [self.file], self.clock)
        self.follower = Follower(self.file, self.store, self.loader, self.freshness)

    def write(self, content: str) -> None:
        """Replaces the file as editors and mounts do."""
        beside = self.path.with_suffix(".new")
        beside.write_text(content)
        beside.replace(self.path)

    def is_unknown(self, tenant: str) -> bool:
        """Whether checks of a tenant answer TENANT_UNKNOWN."""
        return self.store.get(tenant) is None and self.store.is_unknown(tenant, self.clock.monotonic())


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits, but not for ever."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def following(path: Path) -> AsyncIterator[Site]:
    """A site that holds both tenants and follows its file."""
    site = Site(path)
    running = asyncio.create_task(site.follower.run())
    try:
        for tenant in ("acme", "other"):
            await site.loader.load(tenant)
        await eventually(lambda: site.store.is_settled("acme") and site.freshness.as_of is not None)
        yield site
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_tenant_that_the_file_names_no_longer_is_unknown(tmp_path: Path) -> None:
    """As one that it never named."""
    async with following(tmp_path / "tenants.yaml") as site:
        site.write(ONE)
        await eventually(lambda: site.is_unknown("acme"))
        await eventually(lambda: site.store.is_settled("other"))
        assert site.store.get("other") is not None


async def _bad(site: Site) -> None:
    site.write(BOTH.replace("plan: basic", "plan: missing"))


async def _gone(site: Site) -> None:
    site.path.unlink()


@pytest.mark.parametrize("spoil", [_bad, _gone])
async def test_a_file_that_is_gone_or_bad_confirms_nothing(
    tmp_path: Path, spoil: Callable[[Site], Awaitable[None]]
) -> None:
    """The last good one is served, as of when it was; a good one is confirmed again."""
    async with following(tmp_path / "tenants.yaml") as site:
        refused = metrics.source_errors.labels("file")
        before = refused._value.get()
        await spoil(site)
        await eventually(lambda: refused._value.get() > before)
        as_of = site.freshness.as_of
        assert as_of is not None
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert site.freshness.as_of == as_of
        fetched = await site.file.snapshot("acme")
        assert fetched is not None
        assert fetched.true_at is not None
        assert fetched.true_at <= as_of
        assert site.store.get("acme") is not None

        site.write(ONE)
        await eventually(lambda: site.freshness.as_of != as_of)
        assert site.is_unknown("acme")
