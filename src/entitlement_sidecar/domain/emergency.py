"""What answers say under break-glass: how an opened feature is allowed, and how a freeze is told."""

from __future__ import annotations

import msgspec

from entitlement_sidecar.domain.answer import answer
from entitlement_sidecar.domain.break_glass import BreakGlass, BreakGlassAction
from entitlement_sidecar.domain.catalogue import COUNTED, Feature, FeatureKind
from entitlement_sidecar.domain.decision import (
    Decision,
    DecisionWarning,
    Provenance,
    ProvenanceKind,
    Reason,
    WarningKind,
)
from entitlement_sidecar.domain.held import Case

_TOLD = "billing:break-glass:{}:"


def allowed_by(case: Case, feature: Feature, entry: BreakGlass) -> Decision:
    """The answer of an opened feature: nothing is counted, asked or compared.

    Of a config feature the value is what the tenant has been granted, if anything; whatever is requested is
    allowed.
    """
    decision = answer(case, Reason.UNLIMITED if feature.kind in COUNTED else Reason.ENABLED)
    granted = None
    if feature.kind is FeatureKind.CONFIG and case.held.snapshot is not None:
        granted = case.held.resolve(case.held.snapshot, feature, case.now).value
    provenance = (Provenance(ProvenanceKind.BREAK_GLASS, entry.id),)
    return telling(msgspec.structs.replace(decision, provenance=provenance, value=granted), entry)


def telling(decision: Decision, entry: BreakGlass) -> Decision:
    """The decision, saying that an entry is in force and until when."""
    return msgspec.structs.replace(
        decision,
        warnings=(*decision.warnings, DecisionWarning(WarningKind.BREAK_GLASS, entry.detail)),
        notes=(*decision.notes, entry.note),
    )


def made_by(decision: Decision) -> tuple[BreakGlassAction, ...]:
    """Which actions a decision was made under, as it says itself."""
    if not any(one.kind is WarningKind.BREAK_GLASS for one in decision.warnings):
        return ()
    return tuple(
        action
        for action in (BreakGlassAction.OPEN, BreakGlassAction.FREEZE)
        if any(note.startswith(_TOLD.format(action.name.lower())) for note in decision.notes)
    )


def admission_of(decision: Decision) -> str | None:
    """What the usage event of an opened feature names as its admission; None: it is not opened.

    Usage of a metered feature names none: it is counted as what nobody admitted. Credits are not taken for
    what an opened feature allows, so its event says that it needs none.
    """
    if not decision.provenance or decision.provenance[0].kind is not ProvenanceKind.BREAK_GLASS:
        return None
    return f"break-glass:{decision.provenance[0].id}" if decision.kind == FeatureKind.CREDITS else ""
