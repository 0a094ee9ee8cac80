"""One limit, two ways in, two hundred callers: exactly the limit is admitted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.processes import Planstore, Sidecar
from support.waiting import until


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_exactly_fifty_of_two_hundred(
    engine: str,
    request: pytest.FixtureRequest,
    planstore: Callable[..., Planstore],
    sidecar: Callable[..., Sidecar],
) -> None:
    """REST `quotas/check` and CONSUME share the root authority's row (DESIGN 7)."""
    options = {"database": request.getfixturevalue("postgres_dsn")} if engine == "postgres" else {}
    store = planstore(**options)
    beside = sidecar(store)
    store.subscribe("acme", "small")
    until(lambda: beside.check("acme", "calls").allowed, "the new tenant to be allowed", timeout=5)

    def by_rest() -> bool:
        answer = store.rest(
            "POST",
            "/api/billing/organizations/acme/quotas/check",
            json={"feature": "calls", "record_usage": True, "correlation_id": "c"},
        )
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["allowed"])

    def by_sidecar() -> bool:
        return bool(beside.consume("acme", "calls", correlation_id="c").allowed)

    with ThreadPoolExecutor(200) as pool:
        calls = [pool.submit(by_rest if number % 2 else by_sidecar) for number in range(200)]
        admitted = sum(call.result() for call in calls)

    assert admitted == 50
    until(
        lambda: sum(r["value"] for r in store.usage("acme")["usage"] if r["metric"] == "calls") == 50,
        "the ledger to hold every admitted call",
    )
