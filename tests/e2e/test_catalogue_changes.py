"""A catalogue that changes while it is sold: real processes, the command as people type it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.processes import ENTITLEMENTS, Planstore, clean_environment

CATALOGUE = (Path(__file__).parent / "catalogue.yaml").read_text("utf-8")
WITHOUT_SSO = CATALOGUE.replace("  sso: {kind: boolean}\n", "").replace("      sso: true\n", "")
SMALLER = CATALOGUE.replace(
    "      calls: {limits: [{amount: 100, window: month}]}",
    "      calls: {limits: [{amount: 5, window: month}]}",
).replace("      sso: true\n", "")


class Operator:
    """Types commands against one plan store, with a catalogue file of its own."""

    def __init__(self, store: Planstore, file: Path) -> None:
        self.store, self.file = store, file

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """One command; its exit code is as expected."""
        at = ["--planstore", f"http://127.0.0.1:{self.store.http_port}"]
        done = subprocess.run(
            [*ENTITLEMENTS, *arguments, *at, "--token-file", str(self.store.state / "token")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=clean_environment(),
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        """What a command answers as JSON."""
        return json.loads(self.run(*arguments, "-o", "json").stdout)

    def write(self, text: str) -> str:
        """Changes the file; its path."""
        self.file.write_text(text, "utf-8")
        return str(self.file)


@pytest.fixture
def operator(planstore: Any, tmp_path: Path) -> Operator:
    """An operator of a plan store with the test catalogue."""
    return Operator(planstore(), tmp_path / "catalogue.yaml")


def test_from_diff_to_migration(operator: Operator) -> None:
    """Compare and apply; then move subscribers to the new version, after seeing who is denied what."""
    for tenant in ("acme", "globex"):
        operator.store.subscribe(tenant, "large")
    used = {"feature": "calls", "quantity": 7, "record_usage": True, "request_id": "r1"}
    operator.store.rest("POST", "/api/billing/organizations/acme/quotas/check", json=used)
    file = operator.write(SMALLER)

    assert "~ large changed → large@2" in operator.run("catalogue", "diff", file).stdout
    assert operator.json("catalogue", "apply", file)["plans"] == ["large@2"]

    dry = operator.json("plans", "migrate-tenants", "large@1", "large", "--dry-run")
    moved = operator.json("plans", "migrate-tenants", "large@1", "large")
    again = operator.json("plans", "migrate-tenants", "large@1", "large")

    lost = {one["tenant_id"]: {item["feature"] for item in one["denied"]} for one in dry["denied"]}
    assert (dry["moved"], lost) == (2, {"acme": {"calls", "sso"}, "globex": {"sso"}})
    assert (moved["moved"], moved["skipped"], again["moved"]) == (2, [], 0)
    told = operator.run("plans", "migrate-tenants", "large@1", "large").stderr
    assert "0 moved from large@1 to large@2, 0 skipped" in told


def test_losses_are_refused_and_what_to_type_is_told(operator: Operator) -> None:
    """Nothing changes until the losses are accepted; an export brings everything back."""
    operator.store.subscribe("acme", "large")
    before = operator.run("catalogue", "export").stdout
    file = operator.write(WITHOUT_SSO)

    dry = operator.run("catalogue", "apply", file, "--dry-run").stdout
    refused = operator.run("catalogue", "apply", file, code=2)

    assert "feature sso retired: 1 tenant loses\n    acme: all of it" in dry
    assert "feature sso retired: 1 tenant loses\n    acme: all of it" in refused.stderr
    assert f"entitlements catalogue apply {file} --accept-losses" in refused.stderr
    assert refused.stdout == ""
    assert operator.run("catalogue", "export").stdout == before

    assert operator.json("catalogue", "apply", file, "--accept-losses")["version"] == 2
    assert "sso" not in {one["key"] for one in operator.json("catalogue", "features")}
    assert operator.run("catalogue", "export", "--version", "1").stdout == before

    operator.write(before)
    assert "feature sso added: 1 tenant gains" in operator.run("catalogue", "diff", file).stdout
    assert operator.json("catalogue", "apply", file)["version"] == 3
