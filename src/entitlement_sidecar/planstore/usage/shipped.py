"""What a lost holder has used: all events of that start of a sidecar, once they are all here.

A sidecar's outbox stays with its state volume, and the next start of the sidecar sends what the earlier ones
have left before anything of its own. So where a later start has delivered, nothing more is on its way from an
earlier one; and where each sequence of that has been stored, the events that name a lease are all its uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.db import QuotaAccountRow, UsageEventRow, UsageSourceRow

SKEW = timedelta(days=1)
"""How far a sidecar's clock may have been behind when it dated its events."""


def shipped_in_full(session: Session, holders: Iterable[str]) -> set[str]:
    """Those of some holders whose events are all in the ledger: none can follow.

    They are `<instance>:<epoch>`; what follows a `#` tells accounts of one holder apart. Not one of which
    anything was quarantined, refused or declared lost: that may have been used as well.
    """
    sources = {holder: source for holder in holders for source in _source(holder)}
    newest = _newest(session, {instance for instance, _ in sources.values()})
    over = {holder: one for holder, one in sources.items() if newest.get(one[0], 0) > one[1]}
    unfinished = _unfinished(session, over.values())
    return {holder for holder, one in over.items() if one not in unfinished}


def used_by_events(session: Session, account: QuotaAccountRow, holder: str = "") -> int:
    """What the events that name a lease had when they came, whatever became of them since.

    Of a block: those that name the lease of one holder, or of any.
    """
    row, name = UsageEventRow, account.id
    if account.run_id:
        name = f"{account.id}/{holder}"
    named = row.lease_id == name
    if account.run_id and not holder:
        named = row.lease_id.startswith(name, autoescape=True)
    query = select(func.sum(row.value)).where(
        row.tenant_id == account.tenant_id,
        row.occurred_at >= account.opened_at - SKEW,
        row.corrects == "",
        named,
    )
    return int(session.scalar(query) or 0)


def _source(holder: str) -> Iterator[tuple[str, int]]:
    """Instance and epoch; nothing for a name of another form."""
    instance, _, epoch = holder.partition("#")[0].rpartition(":")
    if instance and epoch.isdecimal():
        yield instance, int(epoch)


def _newest(session: Session, instances: set[str]) -> dict[str, int]:
    """The last start of each that has delivered."""
    row = UsageSourceRow
    query = select(row.instance, func.max(row.epoch)).where(row.instance.in_(instances))
    return {one.instance: one[1] for one in session.execute(query.group_by(row.instance))}


def _unfinished(session: Session, sources: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of which something did not come, or did not count. One that never delivered had nothing."""
    row = UsageSourceRow
    query = select(row.instance, row.epoch).where(
        tuple_(row.instance, row.epoch).in_(set(sources)),
        row.accepted_total != row.stored + row.duplicates,
    )
    return {(instance, epoch) for instance, epoch in session.execute(query)}
