"""Usage as REST takes and gives it: one event in, one outcome out."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY
from entitlement_sidecar.domain.usage import UsageEvent, UsageResult
from entitlement_sidecar.planstore.api.forms import Body, Instant, View

_TEXT = 512
"""Characters of a text that is read at all; what is right is said per event."""


class ImportedEvent(Body):
    """One fact: something was used. Wrong types refuse the call; whatever else is wrong, only its event."""

    id: str = Field(
        max_length=_TEXT, description="Identity: the same id again counts once.", examples=["e-17"]
    )
    tenant_id: str = Field(max_length=_TEXT, description="Who used it.", examples=["acme"])
    metric: str = Field("", max_length=_TEXT, description="What was used.", examples=["requests"])
    value: int = Field(1, description="How much, in the metric's smallest unit.", examples=[3])
    unit: str = Field("", max_length=_TEXT, description="Must be the metric's; empty is the metric's.")
    occurred_at: Instant | None = Field(
        None,
        strict=False,
        description="RFC 3339; when it was recorded, where it is left out.",
        examples=[None],
    )
    recorded_at: Instant | None = Field(
        None,
        strict=False,
        description="When it was first taken down, RFC 3339: lateness counts until then; now, if left out. "
        "Taken from billing administrators and sidecars: what an emitter sends is recorded now.",
        examples=[None],
    )
    actor_id: str = Field("", max_length=_TEXT, description="Who did it.")
    correlation_id: str = Field(
        "",
        max_length=_TEXT,
        description="Work that caused it; required for billable usage.",
        examples=["job-1"],
    )
    emitter: str = Field(
        "", max_length=_TEXT, description="Who reports; of an emitter's token: its own name."
    )
    subject: str = Field("", max_length=_TEXT, description="User, agent, project or resource.")
    dimensions: dict[str, str] = Field(
        {}, description="Attributes, at most 16.", examples=[{"project": "p1"}]
    )
    consumption_id: str = Field("", max_length=_TEXT, description="Of an allowed consumption: counts zero.")
    feature: str = Field("", max_length=_TEXT, description="Of a consumption at a sidecar.")
    lease_id: str = Field("", max_length=_TEXT, description="Of a consumption at a sidecar.")
    corrects: str = Field("", max_length=_TEXT, description="Of a correction: id of its original.")
    voids: bool = Field(default=False, description="Of a correction: the original counts no more.")
    reason: str = Field("", max_length=_TEXT, description="Of a correction: why.")
    count: int = Field(1, ge=1, le=MAX_QUANTITY, description="Of a rollup: how many events it stands for.")
    recorded_by: str = Field("", max_length=_TEXT, description="The sidecar that has taken it down.")
    schema_version: int = Field(1, ge=1, le=MAX_QUANTITY)
    registry_version: int = Field(0, ge=0, le=MAX_QUANTITY)
    id_generated: bool = False

    def event(self, now: datetime) -> UsageEvent:
        """As the ledger takes it; what is left out happened, and was recorded, now."""
        given = self.model_dump(exclude={"occurred_at", "recorded_at"})
        recorded_at = self.recorded_at or now
        return UsageEvent(**given, occurred_at=self.occurred_at or recorded_at, recorded_at=recorded_at)


class OutcomeView(View):
    """What became of an event."""

    id: str = Field(examples=["e-17"])
    outcome: str = Field(
        description="ACCEPTED, DUPLICATE, CONFLICT, LATE_ACCEPTED, LATE_REFUSED, QUARANTINED or INVALID.",
        examples=["ACCEPTED"],
    )
    reason: str = Field(description="For people: names the field or rule.")
    rule: str = Field(description="What decided, by name; empty: nothing stood against it.")
    registry_version: int = Field(description="Of the catalogue that it was judged by.", examples=[1])
    classification: str = Field(
        description="What it counts as; empty: it does not count.", examples=["billable"]
    )
    retriable: bool

    @classmethod
    def of(cls, result: UsageResult) -> OutcomeView:
        """An outcome as REST shows it."""
        return cls(
            id=result.id,
            outcome=result.outcome.name,
            reason=result.reason,
            rule=str(result.rule),
            registry_version=result.registry_version,
            classification=result.classification.name.lower() if result.classification else "",
            retriable=result.retriable,
        )
