"""Every case that the truth can be in, against the plan store's own `quotas/check`.

The plan store holds the case's snapshot as if it had been compiled there; it is asked over REST.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from entitlement_sidecar.domain.break_glass import BreakGlassAction
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest
from entitlement_sidecar.planstore.db import (
    BreakGlassRow,
    Database,
    OrganizationRow,
    TenantSnapshotRow,
    create_engine_for,
)
from entitlement_sidecar.planstore.db.migrate import migrate
from entitlement_sidecar.wire.envelopes import seal_snapshot
from entitlement_sidecar.wire.snapshot_file import compile_file
from support.conformance import FILES, UNHEARD, Case, Concept, concept, mismatches
from support.shop import Shop

NOT_THE_TRUTH = ("away", "newer", "stale_for")
"""What the plan store itself cannot be in."""


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that each concept copies."""
    path = tmp_path_factory.mktemp("conformance") / "planstore.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def shop(migrated: Path, tmp_path: Path) -> Iterator[Shop]:
    """A plan store's core, without a catalogue yet."""
    shutil.copyfile(migrated, tmp_path / "planstore.db")
    database = Database(create_engine_for(f"sqlite:///{tmp_path}/planstore.db"))
    yield Shop(database)
    database.close()


def hold(shop: Shop, whole: Concept) -> None:
    """Puts the concept's catalogue into force, and its tenants' snapshots where they would be compiled to."""
    catalogue = json.loads(whole.text)
    del catalogue["tenants"]
    with shop.database.writing() as session:
        session.add_all(measures(whole))
    shop.apply(json.dumps(catalogue))
    now = shop.clock.now()
    _, snapshots = compile_file(whole.file, now)
    with shop.database.writing() as session:
        session.add_all(
            OrganizationRow(tenant_id=tenant, snapshot_version=1, created_at=now) for tenant in snapshots
        )
        session.flush()
        for tenant, snapshot in snapshots.items():
            envelope = seal_snapshot(shop.key, snapshot)
            session.add(TenantSnapshotRow(tenant_id=tenant, version=1, envelope=envelope, compiled_at=now))


def measures(whole: Concept) -> list[BreakGlassRow]:
    """What operators did in emergencies, in every case of the concept."""
    return [
        BreakGlassRow(
            id=one.id,
            action=one.action.name.lower(),
            feature=one.feature,
            tenant_id=one.tenant_id,
            reason=one.reason,
            since=one.since,
            until=one.until,
            created_by="ada",
            ended_by="",
        )
        for case in whole.cases
        for one in case.break_glass()
    ]


def is_the_truth(case: Case) -> bool:
    """Whether the plan store can be in what the case is about; freezes are of sidecars alone."""
    freezes = any(one.action is BreakGlassAction.FREEZE for one in case.break_glass())
    return not (
        freezes or case.raw.get("tenant") == UNHEARD or any(name in case.raw for name in NOT_THE_TRUTH)
    )


def decide(shop: Shop, now: datetime, request: CheckRequest) -> dict[str, Any]:
    """One check, in the words of the cases."""
    shop.clock.jump((now - shop.clock.now()).total_seconds())
    body = {
        "feature": request.feature,
        "quantity": request.quantity,
        "record_usage": request.mode is CheckMode.CONSUME,
        "request_id": request.request_id,
        "subject": request.subject,
    }
    if request.has_requested_value:
        body["requested_value"] = request.requested_value
    answer = shop.rest.post(f"/api/billing/organizations/{request.tenant_id}/quotas/check", json=body)
    assert answer.status_code == 200, answer.text
    return _told(answer.json())


def _told(view: dict[str, Any]) -> dict[str, Any]:
    for name in ("window_start", "reset_at"):
        view[name] = datetime.fromisoformat(view[name]) if view[name] else None
    view["provenance"] = [f"{one['kind']} {one['id']}" for one in view["provenance"]]
    view["warnings"] = [f"{one['kind']} {one['detail']}" for one in view["warnings"]]
    view["obligations"] = [name for name in ("evaluation_required", "governance_required") if view[name]]
    for use in view["credits"]:
        use["expires_at"] = datetime.fromisoformat(use["expires_at"]) if use["expires_at"] else None
    return view


def outcome(shop: Shop, case: Case) -> list[str]:
    """What of one case is not as expected."""
    for at, request, admitted in case.uses():
        before = decide(shop, at, request)
        if before["allowed"] is not admitted:
            return [f"before: {before['reason']}"]
    return mismatches(case, decide(shop, case.now, case.request()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_concept(path: Path, shop: Shop) -> None:
    """Each case of one concept."""
    whole = concept(path)
    hold(shop, whole)
    wrong = {case.name: outcome(shop, case) for case in whole.cases if is_the_truth(case)}
    assert not any(wrong.values()), "\n".join(
        f"{name}: {problem}" for name, problems in wrong.items() for problem in problems
    )
