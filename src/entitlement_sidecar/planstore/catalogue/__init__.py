"""What is sold, as it was applied: plan versions, add-ons, and the signed document for sidecars (S1.2).

`apply_catalogue` compares a catalogue with what is stored and writes only what changed. A plan that changed
becomes a new version; whoever bought the old one keeps it. `plans` reads versions back.
"""

from entitlement_sidecar.planstore.catalogue.apply import ApplyResult, apply_catalogue, seal_catalogue_again
from entitlement_sidecar.planstore.catalogue.plans import (
    active_add_on,
    add_on_of,
    current_catalogue,
    current_document,
    find_plan,
    list_plans,
    plan_of,
)

__all__ = [
    "ApplyResult",
    "active_add_on",
    "add_on_of",
    "apply_catalogue",
    "current_catalogue",
    "current_document",
    "find_plan",
    "list_plans",
    "plan_of",
    "seal_catalogue_again",
]
