"""What is sold, as it was applied: plan versions, add-ons, and the signed document for sidecars (S1.2).

`apply_catalogue` compares a catalogue with what is stored and writes only what changed. A plan that changed
becomes a new version; whoever bought the old one keeps it. `plans` reads versions back, `preview` says what
applying would do and to whom. `break_glass` puts what operators do in an emergency into the same document.
"""

from entitlement_sidecar.planstore.catalogue.apply import (
    ApplyResult,
    apply_catalogue,
    lift_catalogue,
    seal_catalogue_again,
)
from entitlement_sidecar.planstore.catalogue.differences import Difference, FieldChange
from entitlement_sidecar.planstore.catalogue.effects import Affected, Effect, TenantEffect
from entitlement_sidecar.planstore.catalogue.plans import (
    active_add_on,
    add_on_of,
    catalogue_of,
    current_catalogue,
    current_document,
    find_plan,
    list_plans,
    plan_of,
)
from entitlement_sidecar.planstore.catalogue.preview import Preview, preview, refuse_losses

__all__ = [
    "Affected",
    "ApplyResult",
    "Difference",
    "Effect",
    "FieldChange",
    "Preview",
    "TenantEffect",
    "active_add_on",
    "add_on_of",
    "apply_catalogue",
    "catalogue_of",
    "current_catalogue",
    "current_document",
    "find_plan",
    "lift_catalogue",
    "list_plans",
    "plan_of",
    "preview",
    "refuse_losses",
    "seal_catalogue_again",
]
