"""Every case against `evaluate`, with the in-memory authority."""

from __future__ import annotations

from datetime import datetime

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision, Source
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.leases.local_authority import LocalAuthority, NoAuthority
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.wire.snapshot_file import compile_file
from support.conformance import ROOT, UNHEARD, UNKNOWN, Case, all_cases, concept, mismatches, told


class Deciding:
    """`evaluate` with what it needs beside it: what is held, an authority, and the offline counter."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.clock = FakeClock(case.now)
        self.authority = LocalAuthority(self.clock)
        self.offline = LocalAuthority(self.clock)
        self.away = "away" in case.raw

    def at(self, now: datetime, request: CheckRequest) -> Decision:
        """The decision of one request at an instant."""
        self.clock.jump((now - self.clock.now()).total_seconds())
        held = self._held(now)
        outcome = evaluate(held, request, None, now)
        while isinstance(outcome, QuotaAsk):
            outcome = evaluate(held, request, self._asked(outcome, request), now)
        return outcome

    def _asked(self, ask: QuotaAsk, request: CheckRequest) -> QuotaUsage:
        authority = self.offline if ask.allowance else NoAuthority() if self.away else self.authority
        if ask.quantity and request.mode is CheckMode.CONSUME:
            return authority.consume(request.tenant_id, ask, request.request_id)
        return authority.view(request.tenant_id, ask, None)

    def _held(self, now: datetime) -> Held:
        document, snapshot = self._known(now)
        stale = self.case.raw.get("stale_for", 0)
        tenant = self.case.raw.get("tenant", {})
        return Held(
            document,
            snapshot,
            source=Source.MEMORY if snapshot else Source.FALLBACK,
            as_of=now,
            stale=stale > 3,
            stale_for=stale,
            tenant_unknown=tenant == UNKNOWN,
        )

    def _known(self, now: datetime) -> tuple[CatalogueDocument, Snapshot | None]:
        whole = concept(ROOT / "decisions" / f"{self.case.concept}.yaml")
        document, snapshots = compile_file(whole.file, now)
        document = msgspec.structs.replace(document, break_glass=self.case.break_glass())
        newer = self.case.raw.get("newer")
        if newer:
            features = dict(document.features)
            features[newer] = msgspec.structs.replace(features[newer], understood=False)
            document = msgspec.structs.replace(document, features=features)
        if self.case.raw.get("tenant") in (UNKNOWN, UNHEARD):
            return document, None
        return document, snapshots[self.case.tenant_id]


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: f"{case.concept}-{case.number}")
def test_case(case: Case) -> None:
    """What happened before is admitted or denied as the case says, and the answer is as expected."""
    deciding = Deciding(case)
    for at, request, admitted in case.uses():
        before = deciding.at(at, request)
        assert before.allowed is admitted, f"{case.name}: before: {before.reason.name}"
    wrong = mismatches(case, told(deciding.at(case.now, case.request())))
    assert not wrong, "\n".join([case.name, *wrong])
