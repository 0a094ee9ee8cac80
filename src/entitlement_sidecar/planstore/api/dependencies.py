"""What routes and servicers need, put together by `bootstrap`."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import redis

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.access import Gate
from entitlement_sidecar.planstore.api.quota_check import QuotaChecks
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.snapshots.redis_client import Cluster
from entitlement_sidecar.planstore.subscriptions import Credits, Overrides, Subscriptions
from entitlement_sidecar.planstore.usage.accounts import Accounts
from entitlement_sidecar.planstore.usage.authority import RootAuthority
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.wire.signing import KeyRing, SigningKey


class ApiDependencies(msgspec.Struct, frozen=True, kw_only=True):
    """Everything behind the REST routes.

    Attributes:
        database: Where transactions come from.
        subscriptions: Changes subscriptions.
        overrides: Gives and revokes overrides.
        credits: Gives and voids credit grants.
        authority: Counts what is used.
        accounts: What holders of leases were granted.
        checks: Answers quota checks.
        ledger: Stores usage.
        key: Signs catalogue documents.
        clock: The wall clock.
        gate: Knows callers by their tokens.
        feed_shards: Shards of the feed, as catalogue documents say.
        changed: Called after a commit that put something into the snapshot outbox.
        trusted: Public keys that snapshots may be signed with; None: that of `key` alone.
        anchoring: Public keys that the audit log's anchors may be signed with; None: those of `trusted`.
        published_to: The Redis that snapshots go to; None without one.
        leaving: Set when the process is about to stop: it still answers, but is not ready any more.
    """

    database: Database
    subscriptions: Subscriptions
    overrides: Overrides
    credits: Credits
    authority: RootAuthority
    accounts: Accounts
    checks: QuotaChecks
    ledger: Ledger
    key: SigningKey
    clock: Clock
    gate: Gate
    feed_shards: int = 1
    changed: Callable[[], None] = lambda: None
    trusted: KeyRing | None = None
    anchoring: KeyRing | None = None
    published_to: redis.Redis | Cluster | None = None
    leaving: threading.Event = msgspec.field(default_factory=threading.Event)
