"""How long `evaluate` takes, in this process: no transport, no memo of answers."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from statistics import median

from benchmarks.report import Row, Target
from entitlement_sidecar.domain.decision import CheckRequest, Decision
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolver
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.testing.builders import boolean, document, limit, metered, plan_grant, snapshot

CALLS = 20_000
"""Decisions per timing."""

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


def rows(rounds: int) -> Iterator[Row]:
    """A boolean and a metered decision; the metered one asks for usage and is told."""
    known = snapshot("acme", plan_grant("sso"), plan_grant("calls", limit(1_000_000)))
    held = Held(document(boolean("sso"), metered("calls")), known, as_of=NOW, resolver=Resolver(known))
    look, count = CheckRequest("acme", "sso"), CheckRequest("acme", "calls")
    usage = _usage(held, count)

    def decide() -> None:
        evaluate(held, look, None, NOW)

    def decide_by_usage() -> None:
        evaluate(held, count, None, NOW)
        evaluate(held, count, usage, NOW)

    yield _row("evaluate, boolean", decide, rounds, Target(at_most=5))
    yield _row("evaluate, metered", decide_by_usage, rounds, Target(at_most=10))


def _usage(held: Held, request: CheckRequest) -> QuotaUsage:
    ask = evaluate(held, request, None, NOW)
    if not isinstance(ask, QuotaAsk):
        raise SystemExit(f"evaluate does not ask for the quota of {request.feature}")
    [one] = ask.resolution.limits
    window = window_at(one.window, NOW)
    told = LimitUsage(one.key, one.amount, one.soft, window.start, window.end, used=3)
    decision = evaluate(held, request, usage := QuotaUsage((told,), as_of=NOW), NOW)
    if not (isinstance(decision, Decision) and decision.allowed and decision.used == told.used):
        raise SystemExit(f"evaluate decides wrongly: {decision}")
    return usage


def _row(what: str, call: Callable[[], None], rounds: int, target: Target) -> Row:
    taken = [
        seconds / CALLS * 1e6 for seconds in timeit.repeat(call, number=CALLS, repeat=max(rounds, 3) * 3)
    ]
    middle = median(taken)
    return Row(what, "this process", middle, "µs", spread=(max(taken) - min(taken)) / middle, target=target)
