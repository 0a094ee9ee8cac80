"""The audit log: who changed what, when and why, and whether anybody changed the log (S1.11)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from entitlement_sidecar.domain.audit import Finding
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.forms import Instant, View
from entitlement_sidecar.planstore.audit.reading import LAST, Filter, list_entries
from entitlement_sidecar.planstore.audit.verify import SEGMENT, Report, Verification
from entitlement_sidecar.planstore.db import AuditRow
from entitlement_sidecar.wire.fields import expected
from entitlement_sidecar.wire.signing import KeyRing

MAX_PAGE = 1000
MAX_SEGMENT = 100_000

_HASH = "120699ba17210922f30ef114a1db8021f07e507930b45a145d1225330e34ac48"
_CURSOR = "`next_cursor` of the page before."


class EntryView(View):
    """One change of state. `before` and `after` are JSON as text: exactly what the hash covers."""

    sequence: int = Field(examples=[17])
    at: datetime
    actor: str = Field(examples=["ada"])
    role: str = Field(examples=["operator"])
    action: str = Field(examples=["subscription.suspended"])
    resource: str = Field(examples=["subscription/sub_1"])
    tenant_id: str = Field(description="Empty: of no tenant.", examples=["acme"])
    reason: str = Field(examples=["asked for in a ticket"])
    request_id: str = Field(examples=["0198f2c6-7c1e-7b7a-9a51-5a4b7a2f9a10"])
    before: str = Field(examples=['{"state":"active"}'])
    after: str = Field(examples=['{"state":"suspended"}'])
    previous: str = Field(description="Hash of the entry before, hexadecimal.", examples=["00" * 32])
    hash: str = Field(description="SHA-256, hexadecimal.", examples=[_HASH])


class EntriesView(View):
    """A page of entries; null `next_cursor`: there are no more."""

    entries: list[EntryView]
    next_cursor: str | None = Field(examples=["17"])


class FindingView(View):
    """Something that does not fit: which entry, who wrote it, and what is wrong."""

    kind: str = Field(
        description="content, unreadable, link, missing, head, anchor or signature.", examples=["content"]
    )
    sequence: int = Field(examples=[17])
    problem: str = Field(examples=["what it says does not fit its hash: it was changed"])
    day: str = Field(description="Of the anchor that does not fit.", examples=[""])
    at: datetime | None
    actor: str = Field(examples=["ada"])
    action: str = Field(examples=["subscription.suspended"])
    resource: str = Field(examples=["subscription/sub_1"])


class VerifiedView(View):
    """What one call went through; null `next_cursor`: the end was reached."""

    entries: int = Field(description="Entries that this call checked.", examples=[17])
    anchors: int = Field(description="Anchors whose signatures it checked: all, with the first page.")
    last: int = Field(description="The entry that it came to.", examples=[17])
    newest: int = Field(description="The newest entry that there is.", examples=[17])
    findings_count: int = Field(examples=[0])
    findings: list[FindingView] = Field(description="The first 100 of this call.")
    next_cursor: str | None = Field(examples=["17"])


class AuditQuery(BaseModel):
    """Which entries, in which order."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: str = Field("", description="Only what belongs to this tenant.")
    actor: str = Field("", description="Only what this one did.")
    action: str = Field("", description="Only this, for example `subscription.suspended`.")
    resource: str = Field("", description="Only of this, for example `subscription/sub_1`.")
    since: Instant | None = Field(None, description="Not before this instant.")
    until: Instant | None = Field(None, description="Before this instant.")
    order: Literal["newest", "oldest"] = Field("newest", description="Which come first.")
    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: str = Field("", description=_CURSOR)


def audit(dependencies: ApiDependencies) -> APIRouter:
    """Routes of the audit log."""
    router = APIRouter(tags=["audit"])
    key, database = dependencies.key, dependencies.database
    trusted = dependencies.anchoring or dependencies.trusted or KeyRing({key.key_id: key.public_bytes})
    verification = Verification(database, trusted)

    @router.get("/api/billing/audit")
    def get_entries(query: Annotated[AuditQuery, Query()]) -> EntriesView:
        """Who changed what, when and why, by page: the newest first, unless asked otherwise."""
        wanted = Filter(
            tenant_id=query.tenant_id,
            actor=query.actor,
            action=query.action,
            resource=query.resource,
            since=query.since,
            until=query.until,
        )
        cursor, oldest = _position(query.cursor), query.order == "oldest"
        with database.reading() as session:
            rows = list_entries(session, wanted, query.limit + 1, cursor, oldest_first=oldest)
            page = rows[: query.limit]
            more = str(page[-1].sequence) if len(rows) > query.limit else None
            return EntriesView(entries=[_entry(row) for row in page], next_cursor=more)

    @router.get("/api/billing/audit/verify")
    def verify(
        limit: Annotated[int, Query(ge=1, le=MAX_SEGMENT, description="Most entries.")] = SEGMENT,
        cursor: Annotated[str, Query(description=_CURSOR)] = "",
    ) -> VerifiedView:
        """Checks every hash and link, the chain's end and the signed anchors, by page.

        The log is whole where no page has findings.
        """
        return _verified(verification.verify(_position(cursor), limit))

    return router


def _position(cursor: str) -> int | None:
    if not cursor:
        return None
    if not (cursor.isascii() and cursor.removeprefix("-").isdigit()) or len(cursor) > len(str(LAST)):
        raise InvalidInputError.of("cursor", expected("the `next_cursor` of a page", cursor))
    return min(int(cursor), LAST)


def _entry(row: AuditRow) -> EntryView:
    return EntryView(
        sequence=row.sequence,
        at=row.at,
        actor=row.actor,
        role=row.role,
        action=row.action,
        resource=row.resource,
        tenant_id=row.tenant_id,
        reason=row.reason,
        request_id=row.request_id,
        before=row.before,
        after=row.after,
        previous=row.previous.hex(),
        hash=row.hash.hex(),
    )


def _verified(report: Report) -> VerifiedView:
    return VerifiedView(
        entries=report.entries,
        anchors=report.anchors,
        last=report.last,
        newest=report.newest,
        findings_count=report.count,
        findings=[_finding(finding) for finding in report.findings],
        next_cursor=None if report.next_after is None else str(report.next_after),
    )


def _finding(finding: Finding) -> FindingView:
    return FindingView(
        kind=finding.kind.value,
        sequence=finding.sequence,
        problem=finding.problem,
        day=finding.day,
        at=finding.at,
        actor=finding.actor,
        action=finding.action,
        resource=finding.resource,
    )
