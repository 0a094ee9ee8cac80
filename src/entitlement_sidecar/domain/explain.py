"""Why a decision is as it is: every step of its resolution, in the order in which they count.

The steps are told from the same `weigh` that decided, so an explanation cannot say something else. Exactly
one step is decisive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from entitlement_sidecar.domain import break_glass, outage
from entitlement_sidecar.domain.break_glass import BreakGlass
from entitlement_sidecar.domain.catalogue import Feature, FeatureKind, Limit
from entitlement_sidecar.domain.decision import CheckRequest, Decision, Provenance, ProvenanceKind, Reason
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import LimitUsage, QuotaUsage
from entitlement_sidecar.domain.snapshot import LIVE, Grant, GrantEffect, Snapshot, Subscription
from entitlement_sidecar.domain.weighing import Lives, Standing, Weighed, lives_at, state_denial, weigh


class Step(msgspec.Struct, frozen=True, gc=False):
    """One rule, what it is about, and what came of it. `applied`: it contributed; `decisive`: it decided."""

    rule: str
    outcome: str
    provenance: Provenance | None = None
    applied: bool = True
    decisive: bool = False


class Question(msgspec.Struct, frozen=True, gc=False):
    """What was asked, and everything that was known when it was decided."""

    held: Held
    request: CheckRequest
    usage: QuotaUsage | None
    now: datetime


_OF_KIND = {
    ProvenanceKind.PLAN: "plan entitlement",
    ProvenanceKind.ADD_ON: "add-on",
    ProvenanceKind.CREDIT_GRANT: "credit grant",
}

_OF_EFFECT = {
    GrantEffect.DENY: "deny override",
    GrantEffect.SET: "set override",
    GrantEffect.ADD: "add override",
}

_DECIDED_BY = {
    Reason.TENANT_UNKNOWN: "tenant",
    Reason.FEATURE_UNKNOWN: "feature",
    Reason.SUBSCRIPTION_MISSING: "subscription",
    Reason.SUBSCRIPTION_SUSPENDED: "subscription",
    Reason.SUBSCRIPTION_ENDED: "subscription",
    Reason.UNDETERMINED: "outage policy",
}
"""The rule that decides, for reasons where it is always the same one."""

_BY_LIMIT = frozenset(
    {
        *(Reason.WITHIN_LIMIT, Reason.OVER_SOFT_LIMIT, Reason.QUOTA_EXCEEDED),
        *(Reason.EXCEEDS_LIMIT, Reason.SEATS_EXHAUSTED, Reason.CREDITS_EXHAUSTED),
    }
)


def explain(question: Question, decision: Decision) -> tuple[Step, ...]:
    """Every step of a decision that was just made of that question."""
    steps = [*_steps(question, decision), Step("decision", _verdict(decision))]
    at = _decisive(steps, question, decision)
    return tuple(
        msgspec.structs.replace(step, decisive=True) if index == at else step
        for index, step in enumerate(steps)
    )


def _steps(question: Question, decision: Decision) -> Iterator[Step]:
    held, now = question.held, question.now
    feature = held.catalogue.features.get(question.request.feature)
    yield _tenant(held)
    yield _feature(held, feature, question.request.feature)
    yield from _emergency(question)
    if _opening(question) is not None:
        # Nothing else was looked at.
        return
    if held.snapshot is not None:
        lives = lives_at(held.snapshot, now)
        yield from _subscriptions(held.snapshot, lives)
        if feature is not None:
            # Tenant state comes first: without a live subscription nothing else counts.
            denied = state_denial(lives) is not None
            yield from (
                _grant(one, feature, lives, denied=denied)
                for one in weigh(held.snapshot, feature, lives, now)
            )
    if question.usage is not None:
        yield from (_limit(n, one, feature) for n, one in enumerate(question.usage.limits, 1))
    if decision.reason is Reason.UNDETERMINED:
        yield Step("outage policy", _policy(feature, decision))


def _tenant(held: Held) -> Step:
    if held.snapshot is not None:
        confirmed = f"confirmed at {_when(held.as_of)}" if held.as_of else "not confirmed"
        return Step(
            "tenant", f"snapshot {held.snapshot.version}, {confirmed}" + (", stale" if held.stale else "")
        )
    if held.tenant_unknown:
        return Step("tenant", "the plan store knows no such tenant", applied=False)
    return Step("tenant", "nothing is held of it, and nobody could be asked", applied=False)


def _feature(held: Held, feature: Feature | None, key: str) -> Step:
    if feature is None:
        return Step("feature", f"no catalogue names {key}", applied=False)
    if not feature.understood:
        return Step(
            "feature", "a newer plan store says something of it that is not understood here", applied=False
        )
    return Step("feature", f"{feature.kind.name.lower()}, in catalogue {held.catalogue.version}")


def _emergency(question: Question) -> Iterator[Step]:
    opening = _opening(question)
    if opening is not None:
        yield _measure(opening, "opens it")
    entries = question.held.catalogue.break_glass
    freeze = break_glass.frozen(entries, question.request.tenant_id, question.now)
    if freeze is not None:
        yield _measure(freeze, "keeps the snapshot as it is held")


def _opening(question: Question) -> BreakGlass | None:
    """What opens the feature; nothing opens one that no catalogue names."""
    catalogue, request = question.held.catalogue, question.request
    if request.feature not in catalogue.features:
        return None
    return break_glass.opened(catalogue.break_glass, request.tenant_id, request.feature, question.now)


def _measure(entry: BreakGlass, outcome: str) -> Step:
    whose = "this tenant" if entry.tenant_id else "all tenants"
    return Step(
        "break-glass",
        f"{outcome}, for {whose} until {_when(entry.until)} ({entry.reason})",
        Provenance(ProvenanceKind.BREAK_GLASS, entry.id),
    )


def _subscriptions(snapshot: Snapshot, lives: Lives) -> Iterator[Step]:
    if not snapshot.subscriptions:
        yield Step("subscription", "there is none", applied=False)
    for one in sorted(snapshot.subscriptions, key=lambda one: one.id):
        yield _subscription(one, lives)


def _subscription(one: Subscription, lives: Lives) -> Step:
    provenance = Provenance(ProvenanceKind.PLAN, f"{one.plan}@{one.plan_version}")
    life = lives.get(one.id)
    if life is None:
        return Step("subscription", f"{one.id} is in no phase of its life now", provenance, applied=False)
    until = f" until {_when(life.phase.until)}" if life.phase.until else ""
    state = life.phase.state.name.lower()
    outcome = f"{one.id} is {state} since {_when(life.phase.since)}{until}"
    return Step("subscription", outcome, provenance, applied=life.phase.state in LIVE)


def _grant(weighed: Weighed, feature: Feature, lives: Lives, *, denied: bool) -> Step:
    grant = weighed.grant
    rule = _OF_KIND.get(grant.provenance.kind) or _OF_EFFECT.get(grant.effect, "override")
    applied = weighed.standing is Standing.APPLIES and not denied
    if weighed.standing is Standing.APPLIES and denied:
        return Step(rule, "ignored: no subscription is live", grant.provenance, applied=False)
    outcome = _grants(grant, feature) if applied else f"ignored: {_why_not(weighed, lives)}"
    because = f" ({grant.reason})" if grant.reason else ""
    return Step(rule, outcome + because, grant.provenance, applied=applied)


def _grants(grant: Grant, feature: Feature) -> str:
    if grant.effect is GrantEffect.DENY:
        return "denies it, whatever else grants it"
    verb = "sets" if grant.effect is GrantEffect.SET else "grants"
    if feature.kind is FeatureKind.CONFIG:
        return f"{verb} the value {grant.value!r}"
    if feature.kind is FeatureKind.BOOLEAN:
        return f"{verb} it"
    return f"{verb} {', '.join(map(_amount, grant.limits)) or 'it without a limit'}"


def _amount(limit: Limit) -> str:
    amount = "any amount" if limit.amount is None else str(limit.amount)
    more = ("soft" if limit.soft else "", limit.mode.name.lower() if limit.mode else "")
    said = ", ".join(filter(None, more))
    return f"{amount} per {limit.window.key}" + (f" ({said})" if said else "")


def _why_not(weighed: Weighed, lives: Lives) -> str:
    grant = weighed.grant
    match weighed.standing:
        case Standing.NOT_BEGUN:
            return f"it begins at {_when(grant.since)}"
        case Standing.OVER:
            return f"it ended at {_when(grant.until)}"
        case Standing.NOT_LIVE:
            life = lives.get(grant.subscription_id)
            state = life.phase.state.name.lower() if life else "in no phase of its life"
            return f"its subscription is {state}"
        case Standing.OVERRULED:
            return f"overruled by {weighed.by.provenance.id}" if weighed.by else "overruled"
        case Standing.SWITCHED_OFF:
            return "it is switched off"
        case _:
            return "it says something that is not understood here"


def _limit(number: int, usage: LimitUsage, feature: Feature | None) -> Step:
    left = "without a limit" if usage.whole is None else f"of {usage.whole}, {usage.remaining} left"
    until = f", until {_when(usage.reset_at)}" if usage.reset_at else ""
    carried = f", {usage.carried} of it carried over" if usage.carried else ""
    if feature is not None and feature.kind is FeatureKind.CREDITS:
        provenance = Provenance(ProvenanceKind.CREDIT_GRANT, usage.key)
        return Step("limit", f"burns as number {number}: {usage.used} {left}{until}", provenance)
    soft = " (soft)" if usage.soft else ""
    return Step("limit", f"{usage.key}{soft}: {usage.used} {left}{carried}{until}")


def _policy(feature: Feature | None, decision: Decision) -> str:
    verb = "allows" if decision.allowed else "denies"
    rule = {
        "policy": "the feature's own policy",
        "placement": "a feature that is asked before work is placed",
        "default": "the default of its kind",
    }[outage.why(feature)]
    if any(note.endswith(":stale") for note in decision.notes):
        rule = "data older than the feature accepts"
    return f"{rule} {verb} what cannot be known"


def _verdict(decision: Decision) -> str:
    return f"{'allowed' if decision.allowed else 'denied'}: {decision.reason.name}"


def _decisive(steps: Sequence[Step], question: Question, decision: Decision) -> int:
    """The step that decided; the verdict itself where several decided together."""
    verdict = len(steps) - 1
    if _opening(question) is not None:
        return next(index for index, step in enumerate(steps) if step.rule == "break-glass")
    if decision.reason in _DECIDED_BY:
        rule = _DECIDED_BY[decision.reason]
        return next((index for index, step in enumerate(steps) if step.rule == rule), verdict)
    if decision.reason in _BY_LIMIT:
        limits = [index for index, step in enumerate(steps) if step.rule == "limit"]
        tightest = _tightest(question, decision)
        return verdict if tightest is None else limits[tightest]
    granting = {*_OF_KIND.values(), *_OF_EFFECT.values()}
    named = [
        index
        for index, step in enumerate(steps)
        if step.rule in granting and step.applied is not (decision.reason is Reason.NOT_IN_PLAN)
    ]
    return named[0] if len(named) == 1 else verdict


def _tightest(question: Question, decision: Decision) -> int | None:
    """Which limit the decision's numbers describe; None for credits, which count together."""
    told = (decision.limit, decision.used, decision.window_start)
    limits = question.usage.limits if question.usage else ()
    found = [index for index, one in enumerate(limits) if (one.whole, one.used, one.window_start) == told]
    return found[0] if found else None


def _when(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
