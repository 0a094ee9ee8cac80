"""Putting a catalogue into force, without touching what anyone has bought."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import delete, select, text, update
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import AddOn, Catalogue, Plan, PlanEntitlement
from entitlement_sidecar.domain.values import alike
from entitlement_sidecar.planstore.audit import Change, record
from entitlement_sidecar.planstore.catalogue.measures import entries_in_force
from entitlement_sidecar.planstore.catalogue.plans import (
    add_on_of,
    current_row,
    decode_catalogue,
    entries_of,
    plan_of,
)
from entitlement_sidecar.planstore.catalogue.recording import applied
from entitlement_sidecar.planstore.catalogue.registry import register, require_same_kinds
from entitlement_sidecar.planstore.db import (
    AddOnRow,
    CatalogueRow,
    PlanEntitlementRow,
    PlanRow,
    RedisFeedStateRow,
    SnapshotOutboxRow,
)
from entitlement_sidecar.wire.envelopes import seal_catalogue
from entitlement_sidecar.wire.signing import SigningKey, signer_of


class ApplyResult(msgspec.Struct, frozen=True):
    """What applying did: new versions as `code@version`, and codes that are no longer for sale."""

    version: int
    changed: bool
    plans: tuple[str, ...] = ()
    add_ons: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()


def apply_catalogue(
    session: Session, catalogue: Catalogue, key: SigningKey, now: datetime, feed_shards: int = 1
) -> ApplyResult:
    """Puts a catalogue into force in the caller's transaction (S1.2).

    The same catalogue again changes nothing. A plan or add-on gets a new version only where something of it
    changed, and subscribers stay on the version that they bought. What the catalogue no longer names is no
    longer for sale. Sidecars are told through the snapshot outbox.

    Raises:
        InvalidInputError: A feature is of another kind than it had.
    """
    take_turn(session)
    row = current_row(session)
    if row is not None and _same(row, catalogue, feed_shards):
        register(session, catalogue, row.version)
        return ApplyResult(row.version, changed=False)
    require_same_kinds(session, catalogue)
    version = 1 if row is None else row.version + 1
    register(session, catalogue, version)
    if row is not None and row.feed_shards != feed_shards:
        _begin_shards_anew(session)
    plans = [label for plan in catalogue.plans.values() if (label := _apply_plan(session, plan, now))]
    add_ons = [
        label for add_on in catalogue.add_ons.values() if (label := _apply_add_on(session, add_on, now))
    ]
    retired = _retire_plans(session, catalogue) + _retire_add_ons(session, catalogue)
    _publish(session, catalogue, _Sealing(version, feed_shards, key, now))
    before = None if row is None else (row.version, decode_catalogue(row.document))
    record(session, applied(before, (version, catalogue), feed_shards), now)
    return ApplyResult(version, True, tuple(plans), tuple(add_ons), tuple(retired))


def seal_catalogue_again(session: Session, feed_shards: int, key: SigningKey, now: datetime) -> bool:
    """Seals the catalogue in force anew where it says other shards or another key; whether it did.

    Publishers and sidecars both go by that document, so this is what puts a number of shards into force.
    """
    take_turn(session)
    row = current_row(session)
    if row is None or (row.feed_shards == feed_shards and signer_of(row.envelope) == key.key_id):
        return False
    _publish(session, decode_catalogue(row.document), _Sealing(row.version + 1, feed_shards, key, now))
    if row.feed_shards != feed_shards:
        _begin_shards_anew(session)
        record(session, Change("feed.resharded", "feed", "", row.feed_shards, feed_shards), now)
    signer = signer_of(row.envelope)
    if signer != key.key_id:
        changed = Change("signing_key.changed", f"signing_key/{key.key_id}", "", signer, key.key_id)
        record(session, changed, now)
    return True


def publish_break_glass(session: Session, key: SigningKey, now: datetime) -> bool:
    """Seals the catalogue in force anew where it says of emergencies what is not so; whether it did."""
    take_turn(session)
    row = current_row(session)
    if row is None or entries_of(row) == entries_in_force(session, now):
        return False
    sealing = _Sealing(row.version + 1, row.feed_shards, key, now)
    _publish(session, decode_catalogue(row.document), sealing)
    return True


def lift_catalogue(session: Session, version: int, key: SigningKey, now: datetime) -> int:
    """Seals the catalogue in force anew as `version`, which it returns; 0 where there is none."""
    row = current_row(session)
    if row is None:
        return 0
    _publish(session, decode_catalogue(row.document), _Sealing(version, row.feed_shards, key, now))
    return version


def _begin_shards_anew(session: Session) -> None:
    """Tenants are in other shards from here on: publishers refill each, and every reader begins anew."""
    session.execute(delete(RedisFeedStateRow))


def take_turn(session: Session) -> None:
    """Two at once must not both make the next version; SQLite's writers take turns anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE catalogues IN SHARE ROW EXCLUSIVE MODE"))


def _same(row: CatalogueRow, catalogue: Catalogue, feed_shards: int) -> bool:
    return row.feed_shards == feed_shards and alike(decode_catalogue(row.document), catalogue)


class _Sealing(msgspec.Struct, frozen=True):
    """As what, for how many shards, with which key and when a catalogue is sealed."""

    version: int
    feed_shards: int
    key: SigningKey
    now: datetime


def _publish(session: Session, catalogue: Catalogue, sealing: _Sealing) -> None:
    """Stores a catalogue as the one in force, with what it says of emergencies, and announces it."""
    version, shards, now = sealing.version, sealing.feed_shards, sealing.now
    entries = entries_in_force(session, now)
    document = catalogue.document(version, shards, entries)
    row = CatalogueRow(
        version=version,
        name=catalogue.name,
        document=msgspec.json.encode(catalogue).decode(),
        feed_shards=shards,
        envelope=seal_catalogue(sealing.key, document, now),
        applied_at=now,
        break_glass=msgspec.json.encode(entries).decode(),
    )
    announcement = SnapshotOutboxRow(kind="catalogue", tenant_id="", version=version, compiled_at=now)
    session.add_all([row, announcement])
    session.flush()


def _apply_plan(session: Session, plan: Plan, now: datetime) -> str:
    """The label of a new version; empty when the newest one is the same."""
    newest = _newest_plan(session, plan.key)
    if newest is not None and alike(_unlabelled(plan_of(newest)), _unlabelled(plan)):
        newest.active = plan.active
        return ""
    # The old version goes first: one active version per code, at any instant.
    session.execute(update(PlanRow).where(PlanRow.code == plan.key).values(active=False))
    row = _plan_row(plan, 1 if newest is None else newest.version + 1, now)
    session.add(row)
    session.flush()
    return f"{row.code}@{row.version}"


def labels_of(session: Session, catalogue: Catalogue) -> dict[tuple[str, str], str]:
    """The new versions that applying a catalogue would make, by section and key."""
    found = {}
    for plan in catalogue.plans.values():
        newest = _newest_plan(session, plan.key)
        if newest is None or not alike(_unlabelled(plan_of(newest)), _unlabelled(plan)):
            found["plans", plan.key] = _next_label(plan.key, newest)
    for add_on in catalogue.add_ons.values():
        newest_add_on = _newest_add_on(session, add_on.key)
        if newest_add_on is None or not alike(add_on_of(newest_add_on), add_on):
            found["add_ons", add_on.key] = _next_label(add_on.key, newest_add_on)
    return found


def _next_label(code: str, newest: PlanRow | AddOnRow | None) -> str:
    return f"{code}@{1 if newest is None else newest.version + 1}"


def _newest_plan(session: Session, code: str) -> PlanRow | None:
    query = select(PlanRow).where(PlanRow.code == code).order_by(PlanRow.version.desc())
    return session.scalars(query.limit(1)).first()


def _newest_add_on(session: Session, code: str) -> AddOnRow | None:
    query = select(AddOnRow).where(AddOnRow.code == code).order_by(AddOnRow.version.desc())
    return session.scalars(query.limit(1)).first()


def _unlabelled(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, active=True)


def _plan_row(plan: Plan, version: int, now: datetime) -> PlanRow:
    return PlanRow(
        code=plan.key,
        version=version,
        product=plan.product,
        title=plan.title,
        price_amount=plan.price.amount,
        price_currency=plan.price.currency,
        billing_period=plan.billing_period,
        billing_model=plan.billing_model,
        trial_days=plan.trial_days,
        active=plan.active,
        created_at=now,
        entitlements=[_entitlement_row(i, entry) for i, entry in enumerate(plan.entitlements)],
    )


def _entitlement_row(position: int, entitlement: PlanEntitlement) -> PlanEntitlementRow:
    first = entitlement.limits[0] if entitlement.limits else None
    return PlanEntitlementRow(
        feature=entitlement.feature,
        position=position,
        limit_amount=first.amount if first else None,
        reset_cadence=first.window.key if first else None,
        body=msgspec.json.encode(entitlement).decode(),
    )


def _apply_add_on(session: Session, add_on: AddOn, now: datetime) -> str:
    """The label of a new version; empty when the newest one is the same."""
    newest = _newest_add_on(session, add_on.key)
    if newest is not None and alike(add_on_of(newest), add_on):
        newest.active = True
        return ""
    session.execute(update(AddOnRow).where(AddOnRow.code == add_on.key).values(active=False))
    row = AddOnRow(
        code=add_on.key,
        version=1 if newest is None else newest.version + 1,
        title=add_on.title,
        body=msgspec.json.encode(add_on).decode(),
        active=True,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return f"{row.code}@{row.version}"


def _retire_plans(session: Session, catalogue: Catalogue) -> list[str]:
    gone = update(PlanRow).where(PlanRow.active, PlanRow.code.not_in(catalogue.plans)).values(active=False)
    return sorted(session.scalars(gone.returning(PlanRow.code)))


def _retire_add_ons(session: Session, catalogue: Catalogue) -> list[str]:
    gone = (
        update(AddOnRow).where(AddOnRow.active, AddOnRow.code.not_in(catalogue.add_ons)).values(active=False)
    )
    return sorted(session.scalars(gone.returning(AddOnRow.code)))
