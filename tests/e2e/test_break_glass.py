"""Break-glass from the command to the answer: real processes, through WatchSnapshots and through Redis."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from e2e.conftest import StartPlanstore, StartSidecar
from entitlement_sidecar.domain.decision import Degradation, ProvenanceKind, Reason, WarningKind
from support.processes import ENTITLEMENTS, Planstore, Sidecar, clean_environment
from support.waiting import until

PATIENCE = 60.0


def command(store: Planstore, *arguments: str) -> Any:
    """What a command of `break-glass` answers."""
    done = subprocess.run(
        [*ENTITLEMENTS, "break-glass", *arguments, *of(store), "--output", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def of(store: Planstore) -> list[str]:
    """The options that lead a command to a plan store."""
    url = f"http://127.0.0.1:{store.http_port}"
    return ["--planstore", url, "--token-file", str(store.state / "token")]


def allowed(sidecar: Sidecar, *, expected: bool) -> None:
    """Waits until acme's sso is allowed, or denied, at a sidecar."""
    word = "allowed" if expected else "denied"
    until(lambda: sidecar.check("acme", "sso").allowed is expected, f"sso to be {word}", timeout=PATIENCE)


def test_what_is_opened_is_allowed_until_it_ends(
    planstore: StartPlanstore, sidecar: StartSidecar, redis_url: str
) -> None:
    """By the operator's end for one, and by time for the other; each answer says so, and metrics count."""
    store = planstore(redis=redis_url)
    store.subscribe("acme", "small")
    watching, reading = sidecar(store), sidecar(store, "--redis", redis_url, name="by-redis", front="aio")
    for one in (watching, reading):
        assert one.check("acme", "sso").reason == Reason.NOT_IN_PLAN

    entry = command(store, "open", "sso", "--all", "--for", "2h", "--reason", "incident 7")

    for one in (watching, reading):
        allowed(one, expected=True)
        decision = one.check("acme", "sso")
        assert decision.reason == Reason.ENABLED
        assert [(each.kind, each.id) for each in decision.provenance] == [
            (ProvenanceKind.BREAK_GLASS, entry["id"])
        ]
        assert list(decision.notes) == [f"billing:break-glass:open:{entry['id']}"]
        [warning] = decision.warnings
        assert warning.kind == WarningKind.BREAK_GLASS
        assert entry["until"].startswith(warning.detail.removesuffix("Z"))
        assert one.consume("nobody", "sso").allowed
        assert one.metric("entitlement_break_glass_active") == 1
        assert one.metric("entitlement_break_glass_decisions_total") >= 2

    assert [each["id"] for each in command(store, "list")] == [entry["id"]]
    assert command(store, "end", entry["id"])["state"] == "ended"
    for one in (watching, reading):
        allowed(one, expected=False)
        assert one.metric("entitlement_break_glass_active") == 0

    command(store, "open", "sso", "--tenant", "acme", "--for", "10s", "--reason", "incident 8")
    opened: set[Sidecar] = set()

    def both_open() -> bool:
        opened.update(one for one in (watching, reading) if one.check("acme", "sso").allowed)
        return len(opened) == len((watching, reading))

    until(both_open, "sso to be open for acme at both")
    for one in (watching, reading):
        allowed(one, expected=False)


def test_a_freeze_holds_a_downgrade_back_until_it_ends(
    planstore: StartPlanstore, sidecar: StartSidecar
) -> None:
    """Also across a restart of the sidecar; what the plan store itself answers is the newest."""
    store = planstore()
    store.subscribe("acme", "large")
    store.subscribe("globex", "large")
    beside = sidecar(store)
    for tenant in ("acme", "globex"):
        assert beside.check(tenant, "sso").allowed

    entry = command(store, "freeze", "--tenant", "acme", "--for", "2h", "--reason", "a bad migration")
    until(lambda: noted(beside), "the freeze to be known")
    for tenant in ("acme", "globex"):
        store.subscribe(tenant, "small")
    until(lambda: not beside.check("globex", "sso").allowed, "the downgrade of another to arrive")

    until(
        lambda: beside.check("acme", "sso").degradation == Degradation.STALE,
        "what is kept to be called stale",
    )
    assert beside.check("acme", "sso").allowed
    assert list(beside.check("acme", "sso").notes) == [f"billing:break-glass:freeze:{entry['id']}"]
    answer = store.rest(
        "POST", "/api/billing/organizations/acme/quotas/check", json={"feature": "sso", "quantity": 1}
    )
    assert answer.json()["reason"] == "NOT_IN_PLAN"

    beside.stop()
    beside.start()
    assert beside.check("acme", "sso").allowed
    assert noted(beside)

    command(store, "end", entry["id"])
    allowed(beside, expected=False)
    assert not noted(beside)


def noted(sidecar: Sidecar) -> bool:
    """Whether answers say that acme is frozen."""
    return any("break-glass:freeze" in note for note in sidecar.check("acme", "sso").notes)
