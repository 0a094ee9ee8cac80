"""Reading what is sold: plan versions, add-ons and the catalogue in force."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.break_glass import BreakGlass, BreakGlassAction
from entitlement_sidecar.domain.catalogue import (
    AddOn,
    BillingModel,
    Catalogue,
    CatalogueDocument,
    Plan,
    PlanEntitlement,
    Price,
)
from entitlement_sidecar.domain.errors import NotFoundError
from entitlement_sidecar.planstore.db import AddOnRow, CatalogueRow, PlanRow

# Made before there are threads: two that make the first decoder of a type at once can end the process.
_catalogue = msgspec.json.Decoder(Catalogue).decode
_entries = msgspec.json.Decoder(tuple[BreakGlass, ...]).decode
_add_on = msgspec.json.Decoder(AddOn).decode
_entitlement = msgspec.json.Decoder(PlanEntitlement).decode

# Read twice with every batch: columns are cheaper to read than an object.
_IN_FORCE = (
    select(CatalogueRow.version, CatalogueRow.document, CatalogueRow.feed_shards, CatalogueRow.break_glass)
    .order_by(CatalogueRow.version.desc())
    .limit(1)
)


def current_row(session: Session) -> CatalogueRow | None:
    """The catalogue in force, as it is stored; None before the first one."""
    return session.scalars(select(CatalogueRow).order_by(CatalogueRow.version.desc()).limit(1)).first()


def current_catalogue(session: Session) -> tuple[int, Catalogue] | None:
    """Version and content of the catalogue in force; None before the first one."""
    row = current_row(session)
    return None if row is None else (row.version, decode_catalogue(row.document))


def catalogue_of(session: Session, version: int | None = None) -> tuple[CatalogueRow, Catalogue]:
    """A catalogue that was applied; the one in force where no version is named.

    Raises:
        NotFoundError: There is none.
    """
    row = current_row(session) if version is None else session.get(CatalogueRow, version)
    if row is None:
        newest = current_row(session)
        known = "apply one" if newest is None else f"the newest is version {newest.version}"
        raise NotFoundError(f"no catalogue{'' if version is None else f' of version {version}'}: {known}")
    return row, decode_catalogue(row.document)


def current_document(session: Session) -> CatalogueDocument:
    """What belongs to no tenant, as the plan store itself answers by it; empty before the first catalogue.

    It has what is opened, and no freezes: those keep sidecars from what is new, and the plan store is not.
    """
    row = session.execute(_IN_FORCE).first()
    if row is None:
        return CatalogueDocument(version=0, features={}, metrics={})
    version, document, feed_shards, break_glass = row
    opening = tuple(one for one in _decode_entries(break_glass) if one.action is BreakGlassAction.OPEN)
    return decode_catalogue(document).document(version, feed_shards, opening)


def entries_of(row: CatalogueRow) -> tuple[BreakGlass, ...]:
    """What a catalogue's document says of emergencies."""
    return _decode_entries(row.break_glass)


@lru_cache(maxsize=8)
def _decode_entries(break_glass: str) -> tuple[BreakGlass, ...]:
    return _entries(break_glass)


@lru_cache(maxsize=8)
def decode_catalogue(document: str) -> Catalogue:
    """A stored catalogue. Shared between callers, who must not change its dicts."""
    return _catalogue(document)


def list_plans(session: Session, *, active_only: bool = True) -> list[PlanRow]:
    """Plan versions by code, the newest first; only those for sale unless asked for all."""
    query = select(PlanRow).order_by(PlanRow.code, PlanRow.version.desc())
    return list(session.scalars(query.where(PlanRow.active) if active_only else query))


def find_plan(session: Session, name: str) -> PlanRow:
    """A plan by `code` (the version for sale) or `code@version` (any version).

    Raises:
        NotFoundError: There is none. The message lists what is for sale.
    """
    code, _, version = name.partition("@")
    query = select(PlanRow).where(PlanRow.code == code)
    if not version:
        found = session.scalars(query.where(PlanRow.active)).first()
    else:
        wanted = int(version) if version.isascii() and version.isdigit() and len(version) < 10 else -1  # noqa: PLR2004 - digits of an int32
        found = session.scalars(query.where(PlanRow.version == wanted)).first()
    if found is None:
        offered = ", ".join(plan.code for plan in list_plans(session)) or "none: apply a catalogue first"
        raise NotFoundError(f"no plan {name!r}; for sale: {offered}")
    return found


def active_add_on(session: Session, code: str) -> AddOnRow:
    """An add-on that is for sale.

    Raises:
        NotFoundError: There is none.
    """
    found = session.scalars(select(AddOnRow).where(AddOnRow.code == code, AddOnRow.active)).first()
    if found is None:
        offered = ", ".join(session.scalars(select(AddOnRow.code).where(AddOnRow.active))) or "none"
        raise NotFoundError(f"no add-on {code!r}; for sale: {offered}")
    return found


def plan_of(row: PlanRow) -> Plan:
    """The domain's plan of a stored version."""
    return Plan(
        key=row.code,
        title=row.title,
        price=Price(row.price_amount, row.price_currency),
        billing_period=row.billing_period,
        entitlements=tuple(decode_entitlement(entry.body) for entry in row.entitlements),
        billing_model=BillingModel(row.billing_model),
        trial_days=row.trial_days,
        active=row.active,
        product=row.product,
    )


def add_on_of(row: AddOnRow) -> AddOn:
    """The domain's add-on of a stored version."""
    return _add_on(row.body)


def decode_entitlement(body: str) -> PlanEntitlement:
    """A stored entitlement."""
    return _entitlement(body)
