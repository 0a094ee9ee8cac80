"""Reservations through real processes: the example, and what outlives a kill of either side."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from entitlement_sidecar.client import (
    EntitlementsClient,
    IdempotencyConflictError,
    RetryableError,
    UsageOutcome,
)
from support.processes import Planstore, Sidecar
from support.waiting import until

EXAMPLES = Path(__file__).parents[2] / "examples"

StartPlanstore = Callable[..., Planstore]
StartSidecar = Callable[..., Sidecar]


@pytest.fixture(scope="module")
def llm() -> ModuleType:
    """The example, imported from where it is."""
    spec = spec_from_file_location("example_llm", EXAMPLES / "llm" / "llm.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def store(planstore: StartPlanstore) -> Planstore:
    """A plan store with the example's catalogue, and a tenant with 200,000 output tokens a month."""
    store = planstore()
    store.apply(EXAMPLES / "catalogues" / "tasks-and-tokens.yaml")
    store.subscribe("acme", "free")
    return store


def client_of(sidecar: Sidecar) -> EntitlementsClient:
    """A client that has patience."""
    return EntitlementsClient(f"127.0.0.1:{sidecar.port}", timeout=20, report_timeout=20)


def quota(store: Planstore) -> tuple[int, int]:
    """Used and left of the tenant's tokens, at the plan store itself."""
    body = {"feature": "output-tokens"}
    answer = store.rest("POST", "/api/billing/organizations/acme/quotas/check", json=body)
    assert answer.is_success, answer.text
    decision: dict[str, Any] = answer.json()
    return decision["used"], decision["remaining"]


def billed(store: Planstore) -> int:
    """Tokens in the ledger."""
    return sum(one["value"] for one in store.usage("acme")["usage"])


def test_the_example_pays_for_what_it_used(store: Planstore, sidecar: StartSidecar, llm: ModuleType) -> None:
    """Answers until there is not enough left for another; a model that fails costs nothing.

    A consumption beside it is undone, once, however often it is released.
    """
    beside = sidecar(store)

    def failing(_: str) -> Any:
        raise TimeoutError("no answer")

    with client_of(beside) as entitlements:
        first = llm.ask(entitlements, "acme", "What is a lease?", llm.parrot)
        with pytest.raises(TimeoutError):
            llm.ask(entitlements, "acme", "And a block?", failing)
        after_failure = quota(store)
        held = entitlements.reserve("acme", "output-tokens", 199_500)
        with pytest.raises(llm.NothingLeftError, match="QUOTA_EXCEEDED: 494 of 200000 tokens are left"):
            llm.ask(entitlements, "acme", "Anything else?", llm.parrot)
        returned = entitlements.release("acme", reservation_id=held.reservation_id)
        consumed = entitlements.check("acme", "output-tokens", consume=True, quantity=40)
        undone = [entitlements.release("acme", consumption_id=consumed.consumption_id) for _ in range(2)]

    assert (first.tokens, after_failure) == (6, (6, 199_994))
    assert (returned, undone) == (199_500, [40, 40])
    until(lambda: billed(store) == 6, "the consumption to be voided", timeout=60)


def test_a_settlement_outlives_both_processes(store: Planstore, sidecar: StartSidecar) -> None:
    """Reserved, then both are killed; settled while the plan store is away, and killed again: billed once."""
    beside = sidecar(store)
    with client_of(beside) as entitlements:
        assert entitlements.reserve("acme", "output-tokens", 400, reservation_id="r-1", ttl=600)
    beside.kill()
    store.kill()

    beside.start()
    with client_of(beside) as entitlements:
        with pytest.raises(RetryableError):
            entitlements.reserve("acme", "output-tokens", 400, reservation_id="r-2")
        kept = entitlements.settle("acme", "r-1", 150)
        again = entitlements.settle("acme", "r-1", 150)
        with pytest.raises(IdempotencyConflictError):
            entitlements.settle("acme", "r-1", 151)
    beside.kill()
    store.start(migrated=True)
    beside.start()
    until(lambda: billed(store) == 150, "the settlement to arrive", timeout=60)

    assert (kept.result.outcome, kept.pending) == (UsageOutcome.ACCEPTED, True)
    assert (again.result.outcome, again.pending) == (UsageOutcome.DUPLICATE, True)
    assert quota(store) == (150, 199_850)
    # Another sidecar, which knows nothing of it.
    other = sidecar(store, name="other", front="aio")
    with client_of(other) as entitlements:
        told = entitlements.settle("acme", "r-1", 150)
        with pytest.raises(IdempotencyConflictError):
            entitlements.settle("acme", "r-1", 151)
    assert (told.result.outcome, told.returned) == (UsageOutcome.DUPLICATE, 250)
    assert (billed(store), quota(store)) == (150, (150, 199_850))
