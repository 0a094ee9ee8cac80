"""Who may do what: bearer tokens with a role, and perhaps only for some tenants.

    gate = Gate(database, clock)
    principal = gate.admit("Bearer ent_…", peer="192.0.2.7")     # or an error that says nothing of why
    with being(principal):
        require(Permission.CHANGE)
        require_tenant("acme")

`roles` is the table of what each role may, `tokens` stores tokens (their SHA-256 alone), `gate` knows callers
by them, `attempts` slows down who guesses. Which call needs which permission is in `api.permissions`.
"""

from entitlement_sidecar.planstore.access.gate import Gate
from entitlement_sidecar.planstore.access.principal import (
    Principal,
    being,
    current_principal,
    require,
    require_tenant,
    require_unscoped,
)
from entitlement_sidecar.planstore.access.roles import PERMISSIONS, Permission, Role
from entitlement_sidecar.planstore.access.tokens import (
    NewToken,
    create_token,
    list_tokens,
    register_first,
    revoke_token,
    state_of,
    tenants_of,
)

__all__ = [
    "PERMISSIONS",
    "Gate",
    "NewToken",
    "Permission",
    "Principal",
    "Role",
    "being",
    "create_token",
    "current_principal",
    "list_tokens",
    "register_first",
    "require",
    "require_tenant",
    "require_unscoped",
    "revoke_token",
    "state_of",
    "tenants_of",
]
