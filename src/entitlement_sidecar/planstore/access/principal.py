"""On whose rights the code runs: set by the guards of REST and gRPC for each call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from entitlement_sidecar.domain.errors import ForbiddenError
from entitlement_sidecar.planstore.access.roles import PERMISSIONS, Permission, Role, roles_with


class Principal(msgspec.Struct, frozen=True):
    """Whoever has shown a token: its id and name, its role, and the tenants that it is for (empty: all)."""

    id: str
    name: str
    role: Role
    tenants: frozenset[str] = frozenset()

    def require(self, permission: Permission) -> None:
        """Nothing, or an error.

        Raises:
            ForbiddenError: The role lacks the permission; names both, and who has it.
        """
        if permission not in PERMISSIONS[self.role]:
            able = ", ".join(roles_with(permission))
            raise ForbiddenError(
                f"the token {self.name!r} has the role {self.role}, which may not {permission}; "
                f"roles that may: {able}"
            )

    def require_tenant(self, tenant_id: str) -> None:
        """Nothing, or an error.

        Raises:
            ForbiddenError: The token is for other tenants.
        """
        if self.tenants and tenant_id not in self.tenants:
            raise ForbiddenError(
                f"the token {self.name!r} is limited to some tenants, and {tenant_id!r} is none of them"
            )

    def require_unscoped(self) -> None:
        """Nothing, or an error.

        Raises:
            ForbiddenError: The token is for some tenants, and the call is about all of them.
        """
        if self.tenants:
            raise ForbiddenError(
                f"the token {self.name!r} is limited to some tenants, and this call is not about one tenant"
            )


_PRINCIPAL: ContextVar[Principal | None] = ContextVar("principal", default=None)


def current_principal() -> Principal | None:
    """Who calls; None where the plan store works by itself, which nothing restricts."""
    return _PRINCIPAL.get()


@contextmanager
def being(principal: Principal) -> Iterator[None]:
    """Everything inside has the rights of `principal`, also in threads that a request's work is handed to."""
    token = _PRINCIPAL.set(principal)
    try:
        yield
    finally:
        _PRINCIPAL.reset(token)


def require(permission: Permission) -> None:
    """`Principal.require` of who calls."""
    if principal := _PRINCIPAL.get():
        principal.require(permission)


def require_tenant(tenant_id: str) -> None:
    """`Principal.require_tenant` of who calls."""
    if principal := _PRINCIPAL.get():
        principal.require_tenant(tenant_id)


def require_unscoped() -> None:
    """`Principal.require_unscoped` of who calls."""
    if principal := _PRINCIPAL.get():
        principal.require_unscoped()
