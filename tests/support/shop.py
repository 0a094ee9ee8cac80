"""A plan store's core in this process: put together as `bootstrap` does, with a clock that stands still."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import select

from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.planstore.access import Gate
from entitlement_sidecar.planstore.access.tokens import hash_of
from entitlement_sidecar.planstore.api.app import create_app
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.quota_check import QuotaChecks
from entitlement_sidecar.planstore.api.rpc_leases import Quotas
from entitlement_sidecar.planstore.catalogue import ApplyResult, apply_catalogue
from entitlement_sidecar.planstore.db import ApiTokenRow, Database, SnapshotOutboxRow, TenantSnapshotRow
from entitlement_sidecar.planstore.snapshots import SignedSnapshots, limits_of
from entitlement_sidecar.planstore.subscriptions import (
    Credits,
    Overrides,
    SubscriptionChange,
    SubscriptionRequest,
    Subscriptions,
)
from entitlement_sidecar.planstore.usage.accounts import Accounts
from entitlement_sidecar.planstore.usage.authority import RootAuthority
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.wire.catalogue_file import parse_catalogue
from entitlement_sidecar.wire.envelopes import open_snapshot
from entitlement_sidecar.wire.signing import KeyRing, SigningKey

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TOKEN = "of-this-test"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}

CATALOGUE = """
catalogue: shop
features:
  calls: {kind: metered, metric: calls}
  reports: {kind: metered, metric: reports}
  sso: {kind: boolean}
  packs: {kind: config}
metrics:
  calls: {domain: api, unit: call, aggregation: sum, window: month, classification: billable, feature: calls}
  reports: {domain: api, unit: report, aggregation: sum, window: month, classification: billable,
            feature: reports}
plans:
  basic:
    title: Basic
    price: {amount: "29.90", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 5, window: day}, {amount: 50, window: billing_cycle}]}
      reports: true
      packs: {value: 2}
  trial:
    title: With a trial
    price: {amount: "99.00", currency: EUR}
    billing_period: year
    trial_days: 14
    entitlements:
      calls: {limits: [{amount: 100, window: month, soft: true}]}
      sso: true
  free:
    title: Free
    price: {amount: "0", currency: EUR}
    billing_period: none
    entitlements:
      packs: {value: 1}
add_ons:
  more:
    title: More calls
    entitlements:
      calls: {limits: [{amount: 3, window: day}]}
      sso: true
"""


class Rest:
    """Calls an app as a client would, without a network. Thread-safe."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One call, with the token unless headers are given."""

        async def call() -> httpx.Response:
            # What a server would answer, also to what nobody expected.
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://planstore") as client:
                return await client.request(method, path, **{"headers": AUTHORISED, **more})

        return asyncio.run(call())

    def get(self, path: str, **more: Any) -> httpx.Response:
        """A GET."""
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        """A POST."""
        return self.request("POST", path, **more)


class Shop:
    """A plan store's core, put together as `bootstrap` does, with a clock that stands still."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = FakeClock(NOW)
        self.key = SigningKey.generate()
        self.ring = KeyRing({self.key.key_id: self.key.public_bytes})
        snapshots = SignedSnapshots(self.key, self.clock)
        self.subscriptions = Subscriptions(snapshots, self.clock)
        self.overrides = Overrides(snapshots, self.clock)
        self.credits = Credits(snapshots, self.clock)
        self.authority = RootAuthority(database, self.clock)
        self.accounts = Accounts(lambda _: self.clock.now())
        self.quotas = Quotas(database, self.authority, self.accounts, self.clock)
        self.ledger = Ledger(limits_of)
        self.gate = Gate(database, self.clock)
        self.announced = 0
        self._register()

    def _register(self) -> None:
        """The tests' token may everything. The audit log stays empty: it is what tests look at."""
        row = ApiTokenRow(
            id="tok_test",
            name="bootstrap",
            hash=hash_of(TOKEN),
            role="billing-admin",
            tenants="[]",
            created_at=NOW,
            created_by="test",
        )
        with self.database.writing() as session:
            session.merge(row)

    @cached_property
    def rest(self) -> Rest:
        """Its REST."""
        return Rest(create_app(self.dependencies()))

    def dependencies(self) -> ApiDependencies:
        """What its REST is made of."""
        return ApiDependencies(
            database=self.database,
            subscriptions=self.subscriptions,
            overrides=self.overrides,
            credits=self.credits,
            authority=self.authority,
            accounts=self.accounts,
            checks=QuotaChecks(self.database, self.authority, self.ledger, self.clock),
            ledger=self.ledger,
            key=self.key,
            clock=self.clock,
            gate=self.gate,
            changed=self._announce,
        )

    def _announce(self) -> None:
        self.announced += 1

    def apply(self, content: str = CATALOGUE) -> ApplyResult:
        """Puts a catalogue into force."""
        with self.database.writing() as session:
            return apply_catalogue(session, parse_catalogue(content, "test"), self.key, self.clock.now())

    def subscribe(self, tenant: str = "acme", plan: str = "basic", **wanted: Any) -> SubscriptionChange:
        """Subscribes a tenant."""
        with self.database.writing() as session:
            return self.subscriptions.upsert(session, tenant, SubscriptionRequest(plan=plan, **wanted))

    def snapshot(self, tenant: str = "acme") -> Snapshot:
        """The tenant's newest snapshot, verified."""
        with self.database.reading() as session:
            row = session.get_one(TenantSnapshotRow, tenant)
        return open_snapshot(self.ring, row.envelope, tenant)

    def outbox(self) -> list[tuple[str, str, int]]:
        """What waits to be published."""
        with self.database.reading() as session:
            rows = session.scalars(select(SnapshotOutboxRow).order_by(SnapshotOutboxRow.id)).all()
        return [(row.kind, row.tenant_id, row.version) for row in rows]
