"""Forms that several routes share: how values come in and go out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Path
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict

from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.wire.fields import TENANT_FORM, TENANT_PATTERN, expected, is_tenant


class Body(BaseModel):
    """A request body: unknown members and values of other types are errors, nothing is guessed."""

    model_config = ConfigDict(extra="forbid", strict=True)


TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+$"
"""What people write, in lines: without the control characters that no database keeps and no log shows."""


def _in_utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("expected an instant of the years 1 to 9999 in UTC") from None


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""An instant that comes in: with a zone, and one that there is in UTC too."""

MAY_BE_ABSENT: dict[int | str, dict[str, Any]] = {404: {"description": "Not found"}}
"""For `responses` of a route without a name in its path that answers 404 all the same."""


class View(BaseModel):
    """A response body."""

    model_config = ConfigDict(extra="forbid")


_IN_PATH = Path(
    description=f"Who pays: {TENANT_FORM}.",
    examples=["acme"],
    json_schema_extra={"pattern": f"^{TENANT_PATTERN}$"},
)


def _tenant(tenant_id: Annotated[str, _IN_PATH]) -> str:
    if not is_tenant(tenant_id):
        raise InvalidInputError.of("tenant_id", expected(TENANT_FORM, tenant_id))
    return tenant_id


Tenant = Annotated[str, Depends(_tenant)]
"""The tenant of a path."""

ORGANIZATION = "/api/billing/organizations/{tenant_id:path}"
"""Tenant ids may hold slashes, which arrive decoded; what follows them tells routes apart."""
