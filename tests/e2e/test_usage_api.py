"""Tasks, corrections, pseudonyms, import and sinks, from the command to the ledger."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from entitlement_sidecar.client import EntitlementsClient, Usage, UsageOutcome
from entitlement_sidecar.sidecar.usage.pseudonyms import Pseudonyms
from support.processes import ENTITLEMENTS, Planstore, Sidecar, clean_environment
from support.waiting import until

ORGANIZATIONS = "/api/billing/organizations"
CATALOGUE = """
catalogue: tasks
features:
  calls: {kind: metered, metric: calls}
  desks: {kind: seats}
metrics:
  calls: {domain: api, unit: call, window: month, classification: billable, feature: calls}
  tasks: {domain: ai, unit: task, window: month, classification: billable}
  tokens: {domain: ai, unit: token, window: month, classification: billable}
  written: {domain: ai, unit: token, window: month, classification: billable}
  compute: {domain: ai, unit: ms, window: month, classification: informational}
task_metrics: {task: tasks, input_tokens: tokens, output_tokens: written, compute_ms: compute}
plans:
  team:
    price: {amount: "20.00", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 20, window: month}]}
      desks: {seats: 1}
"""
KEY = bytes(range(32, 64))


class Site:
    """A plan store with a sink, and a sidecar that gives pseudonyms."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        self.folder = folder
        self.sink = folder / "accepted.jsonl"
        self.store = Planstore(folder / "planstore", sink=f"jsonl:{self.sink}")
        ending.callback(self.store.kill)
        self.store.start()
        catalogue = folder / "catalogue.yaml"
        catalogue.write_text(CATALOGUE)
        self.store.apply(catalogue)
        key = folder / "subjects.key"
        key.write_bytes(KEY)
        key.chmod(0o600)
        token = str(self.store.state / "token")
        upstream = ("--planstore", f"127.0.0.1:{self.store.grpc_port}", "--token-file", token)
        self.sidecar = Sidecar(folder / "sidecar", *upstream, "--subject-key-file", str(key))
        ending.callback(self.sidecar.kill)
        self.sidecar.start()

    def tenant(self, name: str) -> str:
        """A tenant that is held."""
        self.store.subscribe(name, "team")
        until(lambda: self.sidecar.check(name, "calls").allowed, "the tenant to be held", timeout=60)
        return name

    def client(self) -> EntitlementsClient:
        """An application's client."""
        return EntitlementsClient(f"127.0.0.1:{self.sidecar.port}", timeout=20, report_timeout=30)

    def lines(self, tenant: str, by: str) -> dict[tuple[str, str], int]:
        """A report: values by key and metric."""
        answer = self.store.rest("GET", f"{ORGANIZATIONS}/{tenant}/usage/report", params={"by": by})
        assert answer.is_success, answer.text
        return {(one["key"], one["metric"]): one["value"] for one in answer.json()["lines"]}

    def accepted(self, tenant: str) -> list[dict[str, Any]]:
        """What the sink has written of a tenant, but for a line that it is writing."""
        text = self.sink.read_text() if self.sink.exists() else ""
        found = [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
        return [one for one in found if one["tenant_id"] == tenant]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `entitlements ARGUMENTS`, for this plan store."""
        where = ["--planstore", f"http://127.0.0.1:{self.store.http_port}"]
        token = ["--token-file", str(self.store.state / "token")]
        return subprocess.run(
            [*ENTITLEMENTS, *arguments, *where, *token],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=clean_environment(),
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Started once; each test has a tenant of its own."""
    with ExitStack() as ending:
        yield Site(tmp_path_factory.mktemp("site"), ending)


def test_a_task_counts_once_and_can_be_put_right(site: Site) -> None:
    """Its parts reach the ledger once, under a pseudonym; corrections amend one and take another back."""
    tenant = site.tenant("of-tasks")
    ann = Pseudonyms(KEY).of(tenant, "ann@example.org")
    with site.client() as client:
        task = {"subject": "ann@example.org", "input_tokens": 100, "output_tokens": 20, "compute_ms": 7}
        first = client.record_task(tenant, "job-1", **task)  # type: ignore[arg-type] # by their names
        again = client.record_task(tenant, "job-1", **task)  # type: ignore[arg-type] # by their names
        assert [one.outcome for one in first] == [UsageOutcome.ACCEPTED] * 4
        assert [one.id for one in again] == [one.id for one in first]
        # What was shipped meanwhile is told apart by the ledger alone.
        assert {one.outcome for one in again} <= {UsageOutcome.DUPLICATE, UsageOutcome.ACCEPTED}
        whole = {(ann, "tasks"): 1, (ann, "tokens"): 100, (ann, "written"): 20, (ann, "compute"): 7}
        until(lambda: site.lines(tenant, "subject") == whole, "the task to be in the ledger", timeout=60)

        amended = client.correct(tenant, first[1].id, "the model was asked twice", value=50)
        voided = client.correct(tenant, first[3].id, "measured wrongly")
        assert [amended.outcome, voided.outcome] == [UsageOutcome.ACCEPTED] * 2
    right = {(ann, "tasks"): 1, (ann, "tokens"): 50, (ann, "written"): 20}
    until(lambda: site.lines(tenant, "subject") == right, "the corrections to hold", timeout=60)
    states = {one["metric"]: one["state"] for one in site.store.usage(tenant)["usage"]}
    assert (states["tokens"], states["tasks"]) == ("adjusted", "open")
    until(lambda: len(site.accepted(tenant)) == 6, "the sink to have everything", timeout=60)
    assert [one.get("corrects", "") for one in site.accepted(tenant)][4:] == [first[1].id, first[3].id]


def test_no_name_leaves_the_sidecar_but_for_a_seat(site: Site) -> None:
    """Neither its files nor the ledger hold a name; a seat is by name, as operators give it."""
    tenant = site.tenant("of-names")
    with site.client() as client:
        usage = Usage(
            tenant_id=tenant, metric="compute", value=1, subject="ann@example.org", actor_id="bob@example.org"
        )
        assert client.report([usage])[0].outcome is UsageOutcome.ACCEPTED
        assert client.check(tenant, "calls", consume=True, subject="ann@example.org").allowed
        assert client.check(tenant, "desks", consume=True, subject="cat@example.org").allowed
    names = Pseudonyms(KEY)
    used = {"calls", "compute"}
    until(
        lambda: used <= {metric for _, metric in site.lines(tenant, "subject")},
        "the usage to be in the ledger",
        timeout=60,
    )
    assert {key for key, _ in site.lines(tenant, "actor")} == {"", names.of(tenant, "bob@example.org")}
    assert {key for key, metric in site.lines(tenant, "subject") if metric in used} == {
        names.of(tenant, "ann@example.org")
    }
    seats = site.store.rest("GET", f"{ORGANIZATIONS}/{tenant}/seats/desks")
    assert "cat@example.org" in seats.text
    kept = b"".join(path.read_bytes() for path in (site.folder / "sidecar").rglob("*") if path.is_file())
    assert b"ann@example.org" not in kept
    assert b"bob@example.org" not in kept


def test_a_file_is_imported_once(site: Site) -> None:
    """What is wrong in it is put aside with its line; the same file again counts nothing twice."""
    tenant = site.tenant("of-files")
    file, rejects = site.folder / "usage.csv", site.folder / "rejects.jsonl"
    rows = [f"calls,{n},w{n},2026-01-0{n % 9 + 1}T00:00:00Z,p{n % 2}" for n in range(1, 1201)]
    rows[700] = "calls,many,w,,p1"
    file.write_text("\n".join(["metric,value,correlation_id,recorded_at,dimensions.project", *rows]))
    once = ("usage", "import", str(file), "--tenant", tenant, "--rejects", str(rejects), "--output", "json")

    first, again = site.command(*once), site.command(*once)

    assert (first.returncode, again.returncode) == (1, 1), first.stderr + again.stderr
    counted, repeated = json.loads(first.stdout), json.loads(again.stdout)
    kept = counted["accepted"] + counted["late_accepted"]
    assert (counted["rows"], kept, counted["rejected"]) == (1200, 1199, 1)
    assert (repeated["duplicate"], repeated["rejected"]) == (1199, 1)
    [rejected] = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert (rejected["line"], rejected["reason"]) == (702, "value: expected a whole number")
    asked = ("usage", "report", tenant, "--by", "dimension:project", "--since", "2026-01-01T00:00:00Z")
    report = site.command(*asked, "--until", "2026-02-01T00:00:00Z", "--output", "json")
    values = {one["key"]: one["value"] for one in json.loads(report.stdout)}
    assert sum(values.values()) == sum(range(1, 1201)) - 701
    assert set(values) == {"p0", "p1"}
