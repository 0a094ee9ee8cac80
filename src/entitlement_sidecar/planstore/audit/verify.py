"""Verifying the audit log: every hash, every link, the chain's end, and the anchors (S1.11).

    verification = Verification(database, ring)
    report = verification.verify()
    while report.next_after is not None:
        report = verification.verify(report.next_after)

The walk goes page by page, in constant memory, each page in a transaction of its own: nobody who changes
something waits for it, and what is appended meanwhile is left to the next time.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.audit import ChainWalk, Entry, Finding, FindingKind, about, missing
from entitlement_sidecar.planstore.audit.anchors import Anchor, verify_anchor
from entitlement_sidecar.planstore.audit.reading import LAST, Unreadable, raw, read_anchors, read_entries
from entitlement_sidecar.planstore.db import AuditAnchorRow, AuditHeadRow, AuditRow, Database
from entitlement_sidecar.wire.signing import BadSignatureError, KeyRing

PAGE = 1000
"""Entries, or anchors, that are held at once."""

SEGMENT = 50_000
"""Entries that one call goes through, unless it says otherwise."""

MAX_FINDINGS = 100
"""Findings that a call tells; the others are counted."""


class Report(msgspec.Struct, frozen=True):
    """What one call went through and found. `next_after` None: the end was reached.

    `entries` and `anchors` were checked, those up to the entry `last` of those that there are (`newest`).
    """

    entries: int
    anchors: int
    last: int
    newest: int
    count: int
    findings: tuple[Finding, ...]
    next_after: int | None


class _End(msgspec.Struct, frozen=True):
    """The chain's end, and the newest entry and anchor, as one instant saw them."""

    newest: int
    sequence: int | None
    hash: bytes | None
    day: str


class _Findings:
    """The first ones, and how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[Finding] = []

    def add(self, found: Iterable[Finding]) -> None:
        for finding in found:
            self.count += 1
            if len(self.kept) < MAX_FINDINGS:
                self.kept.append(finding)


class Verification:
    """Checks the audit log of a database against the keys that may have signed its anchors."""

    def __init__(self, database: Database, ring: KeyRing) -> None:
        self._database = database
        self._ring = ring

    def verify(self, after: int | None = None, limit: int = SEGMENT) -> Report:
        """Goes through the entries after one, at most `limit`; signatures of anchors with the first."""
        findings, end = _Findings(), self._end()
        anchors = self._check_signatures(end.day, findings) if after is None else 0
        segment = _Segment(self._database, end, findings)
        if after is not None:
            segment.begin_after(after)
        while segment.entries < limit and segment.page(min(PAGE, limit - segment.entries)):
            pass
        if segment.ended:
            segment.check_end()
        return Report(
            entries=segment.entries,
            anchors=anchors,
            last=segment.walk.sequence,
            newest=end.newest,
            count=findings.count,
            findings=tuple(findings.kept),
            next_after=None if segment.ended else segment.position,
        )

    def _end(self) -> _End:
        """In one statement: appending commits an entry together with the end that it makes."""
        head = select(AuditHeadRow).where(AuditHeadRow.id == 1)
        newest = select(func.max(AuditRow.sequence)).where(AuditRow.sequence <= LAST)
        with self._database.reading() as session:
            # First: what is anchored later than this is none of this walk's.
            day = session.scalar(select(func.max(AuditAnchorRow.day))) or ""
        with self._database.reading() as session:
            row = session.execute(
                select(
                    newest.scalar_subquery(),
                    head.with_only_columns(AuditHeadRow.sequence).scalar_subquery(),
                    head.with_only_columns(raw(AuditHeadRow.hash)).scalar_subquery(),
                )
            ).one()
        return _End(row[0] or 0, row[1], row[2], day)

    def _check_signatures(self, newest: str, findings: _Findings) -> int:
        """Of all anchors, in their order; how many there are."""
        count, day, before = 0, "", b""
        while True:
            with self._database.reading() as session:
                page = read_anchors(
                    session, AuditAnchorRow.day > day, AuditAnchorRow.day <= newest, limit=PAGE
                )
            for anchor in page:
                findings.add(self._signature(anchor, before))
                before = anchor.signature
            count += len(page)
            if len(page) < PAGE:
                return count
            day = page[-1].day

    def _signature(self, anchor: Anchor, before: bytes) -> list[Finding]:
        try:
            verify_anchor(anchor, before, self._ring)
        except BadSignatureError as error:
            return [_of_anchor(anchor, FindingKind.SIGNATURE, _unsigned(error, anchor))]
        return []


class _Segment:
    """A walk through some of the entries."""

    def __init__(self, database: Database, end: _End, findings: _Findings) -> None:
        self.walk = ChainWalk()
        self.entries = 0
        self.ended = False
        self.position: int | None = None
        self._last: Entry | None = None
        self._database = database
        self._end = end
        self._findings = findings

    def begin_after(self, sequence: int) -> None:
        """Goes on where another walk stopped."""
        self.position = sequence
        if sequence <= 0:
            return
        with self._database.reading() as session:
            found = read_entries(session, AuditRow.sequence == sequence, limit=1)
        self._last = found[0] if found and isinstance(found[0], Entry) else None
        self.walk = ChainWalk(sequence, None if self._last is None else self._last.hash)

    def page(self, size: int) -> bool:
        """Goes through the next page; whether there may be more."""
        with self._database.reading() as session:
            after = [] if self.position is None else [AuditRow.sequence > self.position]
            rows = read_entries(session, *after, AuditRow.sequence <= self._end.newest, limit=size)
            last = rows[-1].sequence if rows else self._end.newest
            anchors = self._anchors(session, AuditAnchorRow.sequence <= last)
        for row in rows:
            self._follow(row)
        self._findings.add(self._compare(anchors, rows))
        self.entries += len(rows)
        self.position = last
        self.ended = last >= self._end.newest
        return not self.ended

    def check_end(self) -> None:
        """What the chain's end, and anchors beyond it, say of entries that are not there any more."""
        self._findings.add(self._head())
        with self._database.reading() as session:
            beyond = self._anchors(session, AuditAnchorRow.sequence > self._end.newest)
        self._findings.add(self._compare(beyond, []))

    def _follow(self, row: Entry | Unreadable) -> None:
        if isinstance(row, Entry):
            self._findings.add(self.walk.follow(row))
            self._last = row
        else:
            problem = "cannot be read: it holds a value that its column does not have"
            self._findings.add([Finding(FindingKind.UNREADABLE, row.sequence, problem)])
            self.walk.skip(row.sequence)
            self._last = None

    def _anchors(self, session: Session, upper: ColumnElement[bool]) -> list[Anchor]:
        """Those of entries after the position that were there when the walk began."""
        lower = AuditAnchorRow.sequence > (self.position or 0)
        return read_anchors(session, lower, upper, AuditAnchorRow.day <= self._end.day)

    def _compare(self, anchors: list[Anchor], rows: list[Entry | Unreadable]) -> Iterable[Finding]:
        entries = {row.sequence: row for row in rows}
        for anchor in anchors:
            entry = entries.get(anchor.sequence)
            if entry is None:
                problem = f"the anchor of {anchor.day} is of entry {anchor.sequence}, which is missing"
                yield _of_anchor(anchor, FindingKind.ANCHOR, problem)
            elif isinstance(entry, Entry) and entry.hash != anchor.hash:
                problem = f"the anchor of {anchor.day} has another hash: it, or one before, was written anew"
                yield about(entry, FindingKind.ANCHOR, problem, anchor.day)

    def _head(self) -> Iterable[Finding]:
        end = self._end
        if end.sequence is None:
            if end.newest:
                yield Finding(FindingKind.HEAD, end.newest, "the chain's end is not recorded any more")
        elif end.sequence > end.newest:
            yield missing(end.newest + 1, end.sequence)
        elif end.sequence < end.newest:
            problem = f"the chain's end is recorded as entry {end.sequence}, and entry {end.newest} is there"
            yield Finding(FindingKind.HEAD, end.newest, problem)
        elif self._last is not None and self._last.hash != end.hash:
            yield about(
                self._last, FindingKind.HEAD, "the chain's end has another hash: it was changed or replaced"
            )


def _of_anchor(anchor: Anchor, kind: FindingKind, problem: str) -> Finding:
    return Finding(kind, anchor.sequence, problem, anchor.day)


def _unsigned(error: BadSignatureError, anchor: Anchor) -> str:
    if error.cause == "unknown_key":
        return (
            f"the anchor of {anchor.day} was signed with key {anchor.key_id}, which is not known: add its "
            "line to retired.keys in the plan store's state folder, if it was the plan store's"
        )
    return (
        f"the signature of the anchor of {anchor.day} does not fit: it was changed, or the anchor before it "
        "was changed or removed"
    )
