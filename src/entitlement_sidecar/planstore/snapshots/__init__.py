"""What tenants have, compiled, signed and on its way to sidecars (DESIGN 6).

`compiler` turns rows into a snapshot, `writer` stores it signed together with a row of the outbox,
`publisher` empties the outbox, `in_force` answers from the newest snapshot inside the plan store itself.
"""

from entitlement_sidecar.planstore.snapshots.compiler import Stamp, compile_snapshot
from entitlement_sidecar.planstore.snapshots.in_force import (
    InForce,
    held_now,
    in_force,
    limits_of,
    newest_snapshot,
)
from entitlement_sidecar.planstore.snapshots.writer import SignedSnapshots

__all__ = [
    "InForce",
    "SignedSnapshots",
    "Stamp",
    "compile_snapshot",
    "held_now",
    "in_force",
    "limits_of",
    "newest_snapshot",
]
