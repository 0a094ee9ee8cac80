"""Usage from leases in a line each, and what a file says of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from entitlement_sidecar.sidecar.adapters.sqlite_outbox_reading import QUEUED, OutboxReader
from entitlement_sidecar.sidecar.leases.journal import LeaseAccount
from entitlement_sidecar.sidecar.usage.outbox import Consumption, OutboxRecord
from support.usage import event


def account(lease_id: str, holder: str, **more: object) -> LeaseAccount:
    """An account of a lease of acme's exports."""
    named = {"lease_id": lease_id, "tenant_id": "acme", "feature": "exports", "holder": holder}
    return msgspec.convert({**named, **more}, LeaseAccount)


def use(id_: str, lease_id: str, value: int = 1, *, rollup: bool = False) -> OutboxRecord:
    """An event of a consumption from a lease."""
    return OutboxRecord(event(id_, value=value, lease_id=lease_id), Consumption(value, b"yes"), rollup)


def queued_uses(path: Path) -> Counter[str]:
    """What the events that wait in a file have used, by lease."""
    with OutboxReader(path) as reader:
        events = [stored.event() for stored in reader.rows(QUEUED)]
    uses = Counter[str]()
    for one in events:
        assert one is not None
        uses[one.lease_id] += one.value
    return uses


def journalled_uses(path: Path) -> dict[str, int]:
    """What a file says was used, by lease."""
    with OutboxReader(path) as reader:
        return {one.lease_id: one.used for one in reader.leases()}
