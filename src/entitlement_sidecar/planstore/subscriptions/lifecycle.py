"""Which change a subscription allows, by its status (S1.5).

                 subscribe with a trial           subscribe
                          │                           │
                          ▼                           ▼
    trial_end ◀──────  trialing ───── activate ───▶ active ◀── activate, renew ──┐
        │                 │    (or its end, with      │ │                        │
        │                 │     a next plan)          │ └── past-due ──▶ past_due ── grace over ──▶ unpaid
        ▼                 │                           │                     │                        │
      ended ◀─────────────┴───── end of term ─────────┤                     │                        │
                                                      ▼                     ▼                        ▼
                                cancelled ◀──────── cancel ◀────────────────┴────────────────────────┘

    suspended comes on top of trialing, active and past_due: suspend ──▶ suspended ── resume ──▶ as before

What has ended or was cancelled stays so; who comes back subscribes anew. Doing what was done already changes
nothing and is legal.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from entitlement_sidecar.domain.errors import IllegalTransitionError, NotFoundError
from entitlement_sidecar.planstore.db import SubscriptionRow
from entitlement_sidecar.planstore.subscriptions.phases import status_of


class Action(StrEnum):
    """What can be done with a subscription that there is."""

    CHANGE = "change"
    ACTIVATE = "activate"
    RENEW = "renew"
    PAST_DUE = "past-due"
    SUSPEND = "suspend"
    RESUME = "resume"
    CANCEL = "cancel"


LEGAL: dict[str, frozenset[Action]] = {
    "trialing": frozenset({Action.CHANGE, Action.ACTIVATE, Action.SUSPEND, Action.RESUME, Action.CANCEL}),
    "active": frozenset(Action),
    "past_due": frozenset(Action) - {Action.CHANGE},
    "unpaid": frozenset({Action.ACTIVATE, Action.RENEW, Action.CANCEL}),
    "suspended": frozenset({Action.SUSPEND, Action.RESUME, Action.CANCEL}),
}
"""By status; what has ended or was cancelled allows nothing."""

_BETTER = {"suspended": "resume it first", "past_due": "activate it first", "unpaid": "activate it first"}


def require_legal(row: SubscriptionRow | None, tenant_id: str, action: Action, now: datetime) -> None:
    """Refuses what the status does not allow, and names what it allows.

    Raises:
        NotFoundError: There is no subscription that could change.
        IllegalTransitionError: Not in this status.
    """
    status = "ended" if row is None else status_of(row, now)
    if status not in LEGAL:
        raise NotFoundError(f"{tenant_id!r} has no subscription that could change: create one")
    if action not in LEGAL[status]:
        allowed = ", ".join(sorted(LEGAL[status]))
        hint = f"; {_BETTER[status]}" if status in _BETTER and action is Action.CHANGE else ""
        raise IllegalTransitionError(f"the subscription is {status}, which allows: {allowed}{hint}")
