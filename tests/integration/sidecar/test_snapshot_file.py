"""The file that a sidecar runs from may change under it: whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from entitlement_sidecar.domain.decision import Reason
from support.processes import Sidecar
from support.waiting import until

FILE = """\
catalogue: alone
features:
  sso: {kind: boolean}
  calls: {kind: metered, metric: calls}
metrics:
  calls: {domain: api, unit: call, classification: non_billable}
plans:
  small:
    price: {amount: "1.00", currency: EUR}
    billing_period: month
    entitlements: {calls: {limits: [{amount: 5, window: year}]}}
  large:
    price: {amount: "2.00", currency: EUR}
    billing_period: month
    entitlements: {sso: true, calls: {limits: [{amount: 9, window: year}]}}
tenants:
  acme: {plan: small}
  globex: {plan: small}
"""


@pytest.fixture(params=["fast", "aio"])
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Sidecar, Callable[[str], None]]]:
    """A sidecar of this test alone, and how its file is replaced."""
    file = tmp_path / "tenants.yaml"

    def write(text: str) -> None:
        # In one step, as deployments do: the sidecar never sees half of it.
        (tmp_path / "new.yaml").write_text(text)
        (tmp_path / "new.yaml").replace(file)

    write(FILE)
    sidecar = Sidecar(tmp_path / "state", "--snapshot-file", str(file), front=request.param)
    try:
        yield sidecar.start(), write
    finally:
        sidecar.kill()


def test_a_changed_file_takes_effect_and_a_broken_one_does_not(
    alone: tuple[Sidecar, Callable[[str], None]],
) -> None:
    """What was used stays used; the last good file is served until a good one comes."""
    sidecar, write = alone
    assert sidecar.check("acme", "sso").reason == Reason.NOT_IN_PLAN
    assert sidecar.consume("acme", "calls", quantity=5).remaining == 0
    assert not sidecar.consume("acme", "calls").allowed

    write(FILE.replace("acme: {plan: small}", "acme: {plan: large}\n  initech: {plan: small}"))
    until(lambda: sidecar.check("acme", "sso").allowed, "the upgrade")
    upgraded = sidecar.check("acme", "calls", min_snapshot_version=2)
    assert (upgraded.limit, upgraded.used, upgraded.remaining, upgraded.snapshot_version) == (9, 5, 4, 2)
    assert sidecar.check("initech", "calls").allowed

    write(FILE.replace("plan: small", "plan: smal"))
    until(lambda: sidecar.metric("entitlement_source_errors_total") >= 1, "the broken file to be refused")
    assert sidecar.check("acme", "sso").allowed
    assert sidecar.check("globex", "calls").limit == 5
    assert sidecar.process is not None
    line = sidecar.process.wait_for("keeping the last good snapshots")
    assert "line 17, column 16: plan 'smal' is not known (did you mean 'small'?)" in line

    write(FILE.replace("  acme: {plan: small}\n", ""))
    until(
        lambda: sidecar.check("acme", "sso").reason == Reason.TENANT_UNKNOWN,
        "the tenant to be unknown",
    )
    assert sidecar.check("globex", "calls").snapshot_version == 3
