"""Snapshot files: a catalogue and the tenants that have something of it, so that a sidecar can run alone.

    tenants:
      acme: {plan: starter}
      globex:
        subscriptions: [{plan: starter}, {plan: archive, state: suspended}]
        overrides: [{id: o1, feature: sso, effect: deny, reason: abuse, until: 2026-07-01T00:00:00Z}]
        credits: [{id: welcome, feature: tokens, amount: 500, until: 2026-02-01T00:00:00Z}]

`docs/reference/catalogue.md` describes the format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import Catalogue, CatalogueDocument, Limit, PlanEntitlement
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind
from entitlement_sidecar.domain.snapshot import (
    Grant,
    GrantEffect,
    Phase,
    Snapshot,
    Subscription,
    SubscriptionState,
)
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.wire.catalogue_build import build_catalogue, build_entitlement
from entitlement_sidecar.wire.catalogue_checks import instant
from entitlement_sidecar.wire.catalogue_file import checked_document, text_of

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Since when a tenant has what it has, where its entry does not say."""


class SubscriptionEntry(msgspec.Struct, frozen=True):
    """What a snapshot file says of one subscription. Phases are in order."""

    id: str
    plan: str
    add_ons: dict[str, int]
    phases: tuple[Phase, ...]
    since: datetime | None


class TenantEntry(msgspec.Struct, frozen=True):
    """What a snapshot file says of one tenant; `grants` are its overrides and credits."""

    subscriptions: tuple[SubscriptionEntry, ...] = ()
    grants: tuple[Grant, ...] = ()


class SnapshotFile(msgspec.Struct, frozen=True):
    """A catalogue and the tenants that have something of it."""

    catalogue: Catalogue
    tenants: dict[str, TenantEntry]


def load_snapshot_file(path: Path) -> SnapshotFile:
    """Reads a snapshot file; one without tenants is a catalogue file and is accepted too.

    Raises:
        CatalogueError: Something in it is wrong; lists everything, with line and column.
        InvalidInputError: The file cannot be read.
    """
    return parse_snapshot_file(text_of(path), str(path))


def parse_snapshot_file(text: str, source: str) -> SnapshotFile:
    """Reads a snapshot file's text; `source` is what messages call it.

    Raises:
        CatalogueError: Something in it is wrong; lists everything, with line and column.
    """
    document = checked_document(text, source, tenants=True)
    tenants = {tenant: _tenant(tenant, raw) for tenant, raw in document.data.get("tenants", {}).items()}
    return SnapshotFile(build_catalogue(document), tenants)


def _tenant(tenant: str, raw: dict[str, Any]) -> TenantEntry:
    listed = raw.get("subscriptions", [raw] if "plan" in raw else [])
    return TenantEntry(
        subscriptions=tuple(_subscription(tenant, n, entry) for n, entry in enumerate(listed)),
        grants=(*map(_override, raw.get("overrides", ())), *map(_credits, raw.get("credits", ()))),
    )


def _subscription(tenant: str, position: int, raw: dict[str, Any]) -> SubscriptionEntry:
    phases = tuple(map(_phase, raw["phases"])) if "phases" in raw else _simple_phases(raw)
    return SubscriptionEntry(
        id=raw.get("id") or f"file:{tenant}" + (f":{position}" if position else ""),
        plan=raw["plan"],
        add_ons=raw.get("add_ons", {}),
        phases=phases,
        since=phases[0].since if "phases" in raw else _instant(raw, "since"),
    )


def _phase(raw: dict[str, Any]) -> Phase:
    return Phase(SubscriptionState[raw["state"].upper()], instant(raw["since"]), _instant(raw, "until"))


def _simple_phases(raw: dict[str, Any]) -> tuple[Phase, ...]:
    state = SubscriptionState[raw.get("state", "active").upper()]
    until = _instant(raw, "until")
    first = Phase(state, _instant(raw, "since") or _BEGINNING, until)
    return (first,) if until is None else (first, Phase(SubscriptionState.ENDED, until))


def _instant(raw: dict[str, Any], name: str) -> datetime | None:
    return instant(raw[name]) if name in raw else None


def _override(raw: dict[str, Any]) -> Grant:
    granted = build_entitlement(raw["feature"], raw)
    return Grant(
        feature=raw["feature"],
        provenance=Provenance(ProvenanceKind.OVERRIDE, raw["id"]),
        effect=GrantEffect[raw["effect"].upper()],
        since=_instant(raw, "since"),
        until=_instant(raw, "until"),
        enabled=granted.enabled,
        value=granted.value,
        limits=granted.limits,
        reason=raw["reason"],
        priority=granted.priority,
    )


def _credits(raw: dict[str, Any]) -> Grant:
    return Grant(
        feature=raw["feature"],
        provenance=Provenance(ProvenanceKind.CREDIT_GRANT, raw["id"]),
        since=_instant(raw, "since"),
        until=_instant(raw, "until"),
        limits=(Limit(raw["amount"], WindowSpec(WindowUnit.LIFETIME)),),
        priority=raw.get("priority", 0),
    )


def compile_file(
    file: SnapshotFile, now: datetime, version: int = 1
) -> tuple[CatalogueDocument, dict[str, Snapshot]]:
    """What a sidecar holds when it runs from a file alone.

    Args:
        file: What the file says.
        now: When the snapshots were compiled (aware datetime).
        version: Of the catalogue document and of every snapshot; raise it when the file has changed.
    """
    catalogue = file.catalogue
    return catalogue.document(version), {
        tenant: Snapshot(
            tenant_id=tenant,
            version=version,
            compiled_at=now,
            catalogue_version=version,
            subscriptions=tuple(Subscription(one.id, one.plan, 1, one.phases) for one in entry.subscriptions),
            grants=(*_bought(entry.subscriptions, catalogue), *map(partial(_anchored, entry), entry.grants)),
        )
        for tenant, entry in file.tenants.items()
    }


def _anchored(entry: TenantEntry, grant: Grant) -> Grant:
    """An override's billing cycles are those of the tenant's first subscription."""
    anchor = entry.subscriptions[0].since if entry.subscriptions else None
    return msgspec.structs.replace(grant, limits=tuple(limit.bought(1, anchor) for limit in grant.limits))


def _bought(subscriptions: Iterable[SubscriptionEntry], catalogue: Catalogue) -> Iterator[Grant]:
    for one in subscriptions:
        plan = Provenance(ProvenanceKind.PLAN, f"{one.plan}@1")
        yield from _grants(catalogue.plans[one.plan].entitlements, plan, 1, one)
        for key, quantity in sorted(one.add_ons.items()):
            add_on = Provenance(ProvenanceKind.ADD_ON, key)
            yield from _grants(catalogue.add_ons[key].entitlements, add_on, quantity, one)


def _grants(
    entitlements: Iterable[PlanEntitlement],
    provenance: Provenance,
    quantity: int,
    subscription: SubscriptionEntry,
) -> Iterator[Grant]:
    for entitlement in entitlements:
        yield Grant(
            feature=entitlement.feature,
            provenance=provenance,
            subscription_id=subscription.id,
            enabled=entitlement.enabled,
            value=entitlement.value,
            limits=tuple(limit.bought(quantity, subscription.since) for limit in entitlement.limits),
            priority=entitlement.priority,
        )
