"""The audit log from end to end: written, anchored, exported, verified, and tampered with."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

from support.processes import ENTITLEMENTS, Planstore, clean_environment
from support.waiting import until

Audit = Callable[..., subprocess.CompletedProcess[str]]


def command(store: Planstore) -> Audit:
    """Runs `entitlements audit …` for a plan store."""
    where = [f"http://127.0.0.1:{store.http_port}", str(store.state / "token")]
    env = clean_environment() | dict(
        zip(("ENTITLEMENTS_PLANSTORE_URL", "ENTITLEMENTS_TOKEN_FILE"), where, strict=True)
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ENTITLEMENTS, "audit", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=env,
            check=False,
        )

    return run


def test_what_is_tampered_with_is_named(planstore: Callable[..., Planstore], tmp_path: Path) -> None:
    """What was done is in the log; an edit of it is found, in the database and in an export."""
    store = planstore()
    store.subscribe("acme", "small")
    audit = command(store)
    listed = audit("list", "--output", "json")
    assert '"catalogue.applied"' in listed.stdout, listed
    assert "catalogue.applied" in audit("list", "--action", "catalogue.applied").stdout

    whole = audit("verify")
    assert (whole.returncode, whole.stdout) == (0, ""), whole
    assert "verified: 0 findings" in whole.stderr
    for form in ("json-lines", "csv"):
        export = tmp_path / form
        assert audit("export", "-o", str(export), "--format", form).returncode == 0
        offline = audit("verify", "--file", str(export))
        assert (offline.returncode, offline.stdout) == (0, ""), offline

    # A plan store that starts signs the end of the log where the day has no anchor yet.
    store.stop()
    store.start()
    until(lambda: "1 anchor verified" in command(store)("verify").stderr, "the anchor to be there")

    store.stop()
    with sqlite3.connect(store.state / "planstore.db") as database:
        database.execute("DROP TRIGGER audit_log_refuse_update")
        database.execute("UPDATE audit_log SET actor = 'mallory' WHERE action = 'catalogue.applied'")
    database.close()
    store.start()

    found = command(store)("verify")
    assert found.returncode == 1, found
    assert "mallory" in found.stdout
    assert "catalogue.applied" in found.stdout
    assert "it was changed" in found.stdout
    assert "1 finding" in found.stderr
    forged = tmp_path / "json-lines"
    forged.write_text(forged.read_text().replace("catalogue.applied", "catalogue.looked_at", 1))
    offline = audit("verify", "--file", str(forged))
    assert (offline.returncode, "catalogue.looked_at" in offline.stdout) == (1, True), offline
