"""What people write: plans as configuration, in YAML (S1.2).

    text ── read_yaml ──▶ plain data + places ── shape, meaning ──▶ every problem │ catalogue

A *catalogue file* says what a business sells. A *snapshot file* adds `tenants`, so that a sidecar can run
from it alone. `docs/reference/catalogue.md` describes the format.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import (
    Catalogue,
    CatalogueDocument,
    PlanEntitlement,
)
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind
from entitlement_sidecar.domain.errors import CatalogueError, CatalogueProblem, InvalidInputError
from entitlement_sidecar.domain.snapshot import Grant, Phase, Snapshot, Subscription, SubscriptionState
from entitlement_sidecar.wire.catalogue_build import build_catalogue
from entitlement_sidecar.wire.catalogue_checks import instant, meaning_problems
from entitlement_sidecar.wire.catalogue_schema import shape_problems
from entitlement_sidecar.wire.yaml_source import MAX_BYTES, YamlDocument, read_yaml, too_large

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Since when a tenant has what it has, where its entry does not say."""


class TenantEntry(msgspec.Struct, frozen=True):
    """What a snapshot file says of one tenant. `since` None is always, `until` None never ends."""

    plan: str
    add_ons: dict[str, int] = {}
    state: SubscriptionState = SubscriptionState.ACTIVE
    since: datetime | None = None
    until: datetime | None = None


class SnapshotFile(msgspec.Struct, frozen=True):
    """A catalogue and the tenants that have something of it."""

    catalogue: Catalogue
    tenants: dict[str, TenantEntry]


def load_catalogue(path: Path) -> Catalogue:
    """Reads a catalogue file.

    Raises:
        CatalogueError: Something in it is wrong; lists everything, with line and column.
        InvalidInputError: The file cannot be read.
    """
    return parse_catalogue(_text_of(path), str(path))


def parse_catalogue(text: str, source: str) -> Catalogue:
    """Reads a catalogue; `source` is what messages call it.

    Raises:
        CatalogueError: Something in it is wrong; lists everything, with line and column.
    """
    document = _checked(text, source, tenants=False)
    return build_catalogue(document)


def load_snapshot_file(path: Path) -> SnapshotFile:
    """Reads a snapshot file; one without tenants is a catalogue file and is accepted too.

    Raises:
        CatalogueError: Something in it is wrong; lists everything, with line and column.
        InvalidInputError: The file cannot be read.
    """
    return parse_snapshot_file(_text_of(path), str(path))


def parse_snapshot_file(text: str, source: str) -> SnapshotFile:
    """Reads a snapshot file's text; `source` is what messages call it.

    Raises:
        CatalogueError: Something in it is wrong; lists everything, with line and column.
    """
    document = _checked(text, source, tenants=True)
    tenants = {tenant: _entry(raw) for tenant, raw in document.data.get("tenants", {}).items()}
    return SnapshotFile(build_catalogue(document), tenants)


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInputError.of(str(path), f"cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise CatalogueError(str(path), [CatalogueProblem(1, 1, "", too_large())])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        problem = CatalogueProblem(line, column, "", "not UTF-8: save the file as UTF-8")
        raise CatalogueError(str(path), [problem]) from error


def _checked(text: str, source: str, *, tenants: bool) -> YamlDocument:
    document = read_yaml(text, source)
    problems = [*document.problems, *shape_problems(document), *meaning_problems(document)]
    if not tenants and isinstance(document.data, dict) and "tenants" in document.data:
        message = "tenants belong in a snapshot file: subscribe tenants through the plan store"
        problems.append(document.problem(("tenants",), message, at_key=True))
    if problems:
        raise CatalogueError(source, sorted(set(problems), key=lambda p: (p.line, p.column, p.path)))
    return document


def _entry(raw: dict[str, Any]) -> TenantEntry:
    return TenantEntry(
        plan=raw["plan"],
        add_ons=raw.get("add_ons", {}),
        state=SubscriptionState[raw.get("state", "active").upper()],
        since=instant(raw["since"]) if "since" in raw else None,
        until=instant(raw["until"]) if "until" in raw else None,
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
    document = CatalogueDocument(version, catalogue.features, catalogue.metrics)
    return document, {
        tenant: _snapshot(tenant, entry, catalogue, now, version) for tenant, entry in file.tenants.items()
    }


def _snapshot(tenant: str, entry: TenantEntry, catalogue: Catalogue, now: datetime, version: int) -> Snapshot:
    subscription = Subscription(f"file:{tenant}", entry.plan, 1, _phases(entry))
    plan = Provenance(ProvenanceKind.PLAN, f"{entry.plan}@1")
    grants = [
        *_grants(catalogue.plans[entry.plan].entitlements, plan, 1, entry.since),
        *(
            grant
            for key, quantity in sorted(entry.add_ons.items())
            for grant in _grants(
                catalogue.add_ons[key].entitlements,
                Provenance(ProvenanceKind.ADD_ON, key),
                quantity,
                entry.since,
            )
        ),
    ]
    owned = tuple(msgspec.structs.replace(grant, subscription_id=subscription.id) for grant in grants)
    return Snapshot(tenant, version, now, version, (subscription,), owned)


def _phases(entry: TenantEntry) -> tuple[Phase, ...]:
    first = Phase(entry.state, entry.since or _BEGINNING, entry.until)
    if entry.until is None:
        return (first,)
    return (first, Phase(SubscriptionState.ENDED, entry.until))


def _grants(
    entitlements: tuple[PlanEntitlement, ...],
    provenance: Provenance,
    quantity: int,
    anchor: datetime | None,
) -> list[Grant]:
    return [
        Grant(
            feature=entitlement.feature,
            provenance=provenance,
            enabled=entitlement.enabled,
            value=entitlement.value,
            limits=tuple(limit.bought(quantity, anchor) for limit in entitlement.limits),
        )
        for entitlement in entitlements
    ]
