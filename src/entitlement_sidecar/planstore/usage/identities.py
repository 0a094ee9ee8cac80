"""Who owns an identity: whoever stores its key first (S0.5, DESIGN 8)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.planstore.db import UsageEventKeyRow
from entitlement_sidecar.planstore.usage.arrival import COUNTING, Identity, Judged
from entitlement_sidecar.planstore.usage.bulk import insert_rows, passing_by

_SAME = "counted before, or discarded by an operator"
_OTHER = "an event with this id and other content came before; this one was refused"


class Identities:
    """What is known of the identities of a batch; tells the events of each apart."""

    def __init__(self, claimed: set[Identity], digests: dict[Identity, bytes]) -> None:
        self._claimed = claimed
        self._digests = digests

    def seen(self, one: Judged) -> UsageResult | None:
        """DUPLICATE or CONFLICT for an event whose identity has one already; the first one gets None.

        One that does not count takes no identity from one that does, and comes after it in the batch.
        """
        identity = one.identity
        if identity in self._claimed:
            if one.ruling.outcome in COUNTING:
                self._claimed.discard(identity)
            return None
        digest = self._digests.get(identity)
        if digest is None:
            return None
        if digest == one.digest:
            return one.told(UsageOutcome.DUPLICATE, RuleName.IDENTITY, _SAME)
        return one.told(UsageOutcome.CONFLICT, RuleName.IDENTITY, _OTHER)


def claim(session: Session, judged: Sequence[Judged]) -> Identities:
    """Stores the identities of events that count; of all others it only looks whether they were stored.

    So an event that was stored is a duplicate, whatever the registry would say of it now.
    """
    digests: dict[Identity, bytes] = {}
    for one in judged:
        if one.ruling.outcome in COUNTING:
            digests.setdefault(one.identity, one.digest)
    claimed = _store(session, digests) if digests else set()
    looked_at = {one.identity for one in judged} - claimed
    if looked_at:
        # A replica that claimed them a moment ago has committed by now: the insert waited for it.
        digests |= _stored(session, looked_at)
    return Identities(claimed, digests)


def give_up(session: Session, digests: Mapping[Identity, bytes]) -> set[Identity]:
    """Stores the identities of events that shall never count; those of them that count already, as they are.

    Whatever is sent again under such an identity is a duplicate, or a conflict where it says something else.
    """
    taken = digests.keys() - _store(session, digests)
    known = _stored(session, taken) if taken else {}
    return {identity for identity, digest in known.items() if digest == digests[identity]}


def _store(session: Session, digests: Mapping[Identity, bytes]) -> set[Identity]:
    rows = [{"tenant_id": t, "event_id": e, "digest": digests[t, e]} for t, e in sorted(digests)]
    key = UsageEventKeyRow.__table__.c
    stored = insert_rows(
        session,
        UsageEventKeyRow,
        rows,
        passing_by,
        returning=[key.tenant_id, key.event_id],
    )
    return {(tenant_id, event_id) for tenant_id, event_id in stored}


def _stored(session: Session, identities: Collection[Identity]) -> dict[Identity, bytes]:
    key = UsageEventKeyRow.__table__.c
    query = select(key.tenant_id, key.event_id, key.digest)
    found = session.execute(query.where(tuple_(key.tenant_id, key.event_id).in_(sorted(identities))))
    return {(tenant_id, event_id): digest for tenant_id, event_id, digest in found}
