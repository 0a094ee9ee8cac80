"""What a newer plan store says and this version has no name for: that feature answers by its policy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument, FeatureKind
from entitlement_sidecar.domain.decision import CheckRequest, Decision, Degradation, Reason, Source
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.registry import Granularity, WhenFull
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.telemetry.metrics import REGISTRY
from entitlement_sidecar.testing.builders import boolean, document, limit, metered, plan_grant, snapshot
from entitlement_sidecar.wire.envelopes import open_catalogue, open_snapshot
from entitlement_sidecar.wire.signing import KeyRing, PayloadKind, SigningKey, sign
from entitlement_sidecar.wire.snapshot_codec import document_to_proto, snapshot_to_proto
from entitlement_sidecar.wire.v1 import snapshot_pb2, types_pb2

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
KEY = SigningKey.generate()
RING = KeyRing({KEY.key_id: KEY.public_bytes})
NEWER = 999
"""A number that no enum of this version has."""

UNKNOWN_FIELD = b"\xa2\x7d\x03new"
"""Field 2,004 with the text `new`: of no message of this version."""


def told(change: Callable[[snapshot_pb2.Snapshot], None]) -> Snapshot:
    """Acme's snapshot as a newer plan store signs it, opened here."""
    message = snapshot_to_proto(snapshot("acme", plan_grant("sso"), plan_grant("calls", limit(10))))
    change(message)
    payload = message.SerializeToString()
    return open_snapshot(RING, sign(KEY, PayloadKind.SNAPSHOT, "acme", 1, NOW, payload), "acme")


def catalogue(change: Callable[[snapshot_pb2.CatalogueDocument], None] = lambda _: None) -> CatalogueDocument:
    """The catalogue document as a newer plan store signs it, opened here."""
    message = document_to_proto(document(boolean("sso"), boolean("audit"), metered("calls")))
    change(message)
    payload = message.SerializeToString()
    return open_catalogue(RING, sign(KEY, PayloadKind.CATALOGUE, "", 1, NOW, payload))


def decide(known: Snapshot, feature: str, offered: CatalogueDocument | None = None) -> Decision:
    """A look at one feature that needs no quota."""
    outcome = evaluate(
        Held(offered or catalogue(), known, as_of=NOW), CheckRequest("acme", feature), None, NOW
    )
    assert isinstance(outcome, Decision)
    return outcome


def counted(what: str) -> float:
    """How often something was not understood."""
    return REGISTRY.get_sample_value("entitlement_not_understood_total", {"what": what}) or 0.0


def _field(part: Callable[[snapshot_pb2.Snapshot], object]) -> Callable[[snapshot_pb2.Snapshot], None]:
    def change(message: snapshot_pb2.Snapshot) -> None:
        part(message).MergeFromString(UNKNOWN_FIELD)  # type: ignore[attr-defined]

    return change


def _effect(message: snapshot_pb2.Snapshot) -> None:
    message.grants[1].effect = NEWER  # type: ignore[assignment]


def _unit(message: snapshot_pb2.Snapshot) -> None:
    message.grants[1].limits[0].window.unit = NEWER  # type: ignore[assignment]


def _zone(message: snapshot_pb2.Snapshot) -> None:
    message.grants[1].limits[0].window.zone = "Mars/Olympus_Mons"


GRANTS = {
    "effect": _effect,
    "window": _unit,
    "zone": _zone,
    "field of a grant": _field(lambda message: message.grants[1]),
    "field of a limit": _field(lambda message: message.grants[1].limits[0]),
    "field of a window": _field(lambda message: message.grants[1].limits[0].window),
}


@pytest.mark.parametrize("change", GRANTS.values(), ids=GRANTS)
def test_a_grant_that_is_not_understood(change: Callable[[snapshot_pb2.Snapshot], None]) -> None:
    """Its feature is UNDETERMINED and denied, as hard limits are; the other one answers; it is counted."""
    known = told(change)
    decision = decide(known, "calls")
    assert (decision.allowed, decision.reason) == (False, Reason.UNDETERMINED)
    assert decision.degradation is Degradation.FAIL_CLOSED
    assert decide(known, "sso").reason is Reason.ENABLED

    before = counted("grant")
    SnapshotStore().put(HeldTenant(known, Source.REDIS, None, followed=True))
    assert counted("grant") == before + 1


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message.subscriptions[0].phases[0].MergeFrom(snapshot_pb2.Phase(state=NEWER)),
        _field(lambda message: message.subscriptions[0]),
        _field(lambda message: message.subscriptions[0].phases[0]),
    ],
    ids=["state", "field of a subscription", "field of a phase"],
)
def test_a_subscription_that_is_not_understood(change: Callable[[snapshot_pb2.Snapshot], None]) -> None:
    """Everything that depends on it is undetermined; what nobody grants is still not in the plan."""
    known = told(change)
    assert decide(known, "sso").reason is Reason.UNDETERMINED
    assert decide(known, "calls").reason is Reason.UNDETERMINED
    assert decide(known, "audit").reason is Reason.NOT_IN_PLAN


def _kind(feature: types_pb2.Feature) -> None:
    feature.kind = NEWER  # type: ignore[assignment]


def _policy(feature: types_pb2.Feature) -> None:
    feature.outage.when_unknown = NEWER  # type: ignore[assignment]


FEATURES: dict[str, Callable[[types_pb2.Feature], object]] = {
    "kind": _kind,
    "policy": _policy,
    "field of a feature": lambda feature: feature.MergeFromString(UNKNOWN_FIELD),
    "field of a policy": lambda feature: feature.outage.MergeFromString(UNKNOWN_FIELD),
}


@pytest.mark.parametrize("change", FEATURES.values(), ids=FEATURES)
def test_a_feature_that_is_not_understood(change: Callable[[types_pb2.Feature], object]) -> None:
    """It is undetermined, the others answer, and it is counted."""

    def newer(message: snapshot_pb2.CatalogueDocument) -> None:
        [sso] = [feature for feature in message.features if feature.key == "sso"]
        change(sso)

    offered = catalogue(newer)
    known = told(lambda _: None)
    assert decide(known, "sso", offered).reason is Reason.UNDETERMINED
    assert decide(known, "audit", offered).reason is Reason.NOT_IN_PLAN

    before = counted("feature")
    SnapshotStore().put_catalogue(offered)
    assert counted("feature") == before + 1


@pytest.mark.parametrize(("policy", "allowed"), [("ALLOW", True), ("DENY", False)])
def test_its_own_policy_decides(policy: str, allowed: bool) -> None:
    """A feature that says what to do when nothing is known is answered so."""

    def newer(message: snapshot_pb2.CatalogueDocument) -> None:
        for feature in message.features:
            feature.outage.when_unknown = getattr(types_pb2, f"WHEN_UNKNOWN_{policy}")
            feature.kind = NEWER  # type: ignore[assignment]

    offered = catalogue(newer)
    assert offered.features["sso"].kind is FeatureKind.UNKNOWN
    decision = decide(told(lambda _: None), "sso", offered)
    assert (decision.allowed, decision.reason) == (allowed, Reason.UNDETERMINED)


def test_a_new_kind_of_provenance_is_only_a_name() -> None:
    """Who grants changes nothing about what is granted."""

    def newer(message: snapshot_pb2.Snapshot) -> None:
        message.grants[0].provenance.kind = NEWER  # type: ignore[assignment]

    assert decide(told(newer), "sso").reason is Reason.ENABLED


def test_a_metric_that_is_not_understood_still_keeps_events() -> None:
    """What it adds up to is the plan store's business."""

    def newer(message: snapshot_pb2.CatalogueDocument) -> None:
        message.metrics[0].aggregation = NEWER  # type: ignore[assignment]
        message.metrics[0].window.unit = NEWER  # type: ignore[assignment]

        message.metrics[0].granularity = NEWER  # type: ignore[assignment]
        message.metrics[0].when_full = NEWER  # type: ignore[assignment]

    offered = catalogue(newer).metrics
    assert set(offered) == {"calls"}
    assert (offered["calls"].granularity, offered["calls"].when_full) == (Granularity.EVENT, WhenFull.REFUSE)


def _new_effect(rule: types_pb2.UsageRule) -> None:
    rule.effect = NEWER  # type: ignore[assignment]


def _new_condition(rule: types_pb2.UsageRule) -> None:
    rule.conditions.add(attribute="weather", values=["rain"])


def _no_condition(rule: types_pb2.UsageRule) -> None:
    del rule.conditions[:]


def _new_field(rule: types_pb2.UsageRule) -> None:
    rule.conditions[0].MergeFromString(UNKNOWN_FIELD)


@pytest.mark.parametrize("change", [_new_effect, _new_condition, _no_condition, _new_field])
def test_a_rule_that_is_not_understood_is_not_judged_by(
    change: Callable[[types_pb2.UsageRule], None],
) -> None:
    """Ingest judges by it; the others hold here too, in their order."""

    def newer(message: snapshot_pb2.CatalogueDocument) -> None:
        for key in ("first", "newer", "last"):
            failed = types_pb2.RuleCondition(attribute="dimensions.status", values=["failed"])
            message.rules.add(key=key, conditions=[failed])
        change(message.rules[1])

    assert [rule.key for rule in catalogue(newer).rules] == ["first", "last"]
