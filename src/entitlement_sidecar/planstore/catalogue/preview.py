"""What applying a catalogue would do, told before it is done; and the refusal to take what is in use."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Catalogue
from entitlement_sidecar.domain.errors import LossesError
from entitlement_sidecar.planstore.catalogue.apply import labels_of, take_turn
from entitlement_sidecar.planstore.catalogue.differences import EMPTY, Difference, compare
from entitlement_sidecar.planstore.catalogue.effects import Affected, Effect, effects_of
from entitlement_sidecar.planstore.catalogue.plans import current_catalogue
from entitlement_sidecar.planstore.catalogue.registry import require_same_kinds

_TOLD = 5
"""Tenants that a refusal names."""

_LISTED = 10
"""Losses that a refusal puts into words; all of them are in its list."""


class Preview(msgspec.Struct, frozen=True):
    """What would change, against which version, and whom it would touch; version 0 is before the first."""

    version: int
    differences: tuple[Difference, ...]
    effects: tuple[Effect, ...]


def preview(session: Session, catalogue: Catalogue, now: datetime) -> Preview:
    """What applying a catalogue now would do. Changes nothing.

    Raises:
        InvalidInputError: A feature is of another kind than it had, so that it cannot be applied.
    """
    require_same_kinds(session, catalogue)
    version, before = current_catalogue(session) or (0, EMPTY)
    labels = labels_of(session, catalogue)
    differences = [
        msgspec.structs.replace(one, label=labels.get((one.section, one.key), ""))
        for one in compare(before, catalogue)
    ]
    return Preview(version, tuple(differences), tuple(effects_of(session, before, catalogue, now)))


def refuse_losses(session: Session, catalogue: Catalogue, now: datetime) -> None:
    """Refuses a catalogue that takes something in use from tenants, in the transaction that applies it.

    Raises:
        LossesError: Names each feature and metric, how many tenants, and the first of them.
        InvalidInputError: A feature is of another kind than it had.
    """
    take_turn(session)
    require_same_kinds(session, catalogue)
    _, before = current_catalogue(session) or (0, EMPTY)
    losing = [one for one in effects_of(session, before, catalogue, now) if one.lost.count]
    if losing:
        told = "; ".join(_told(one) for one in losing[:_LISTED])
        more = f"; and {len(losing) - _LISTED} more" if len(losing) > _LISTED else ""
        message = f"this catalogue takes something in use from tenants: {told}{more}"
        raise LossesError(f"{message}. Nothing was changed", [_plain(one) for one in losing])


def _told(effect: Effect) -> str:
    section = effect.section.removesuffix("s")
    return f"{section} {effect.key!r} is {effect.change}: {_some(effect.lost)}"


def _some(affected: Affected) -> str:
    names = [f"{one.tenant_id} ({', '.join(one.what)})" for one in affected.tenants[:_TOLD]]
    rest = affected.count - len(names)
    number = "1 tenant" if affected.count == 1 else f"{affected.count} tenants"
    return f"{number}: {', '.join(names)}" + (f" and {rest} more" if rest else "")


def _plain(effect: Effect) -> dict[str, object]:
    return {
        "section": effect.section,
        "key": effect.key,
        "change": effect.change,
        "tenants": effect.lost.count,
        "first": [{"tenant_id": one.tenant_id, "loses": list(one.what)} for one in effect.lost.tenants],
    }
