"""Who changed what, when and why, in a chain that shows tampering (S1.11).

    with acting(Actor("ada", "operator", reason="refund 7", request_id="…")), database.writing() as session:
        …
        record(session, Change("subscription.suspended", "subscription/sub_1", "acme", before, after), now)

An entry is written in the transaction of the change itself, at its end: there is no change without one. Once
a day the chain's end is signed (`anchors`), and `verify` finds what was changed since it was written.
"""

from entitlement_sidecar.planstore.audit.acting import SYSTEM, Actor, acting, because, current_actor
from entitlement_sidecar.planstore.audit.chain import Change, record

__all__ = ["SYSTEM", "Actor", "Change", "acting", "because", "current_actor", "record"]
