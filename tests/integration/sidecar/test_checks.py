"""CheckEntitlement, as an application meets it."""

from __future__ import annotations

from functools import partial

import grpc
import pytest

from entitlement_sidecar.domain.catalogue import FeatureKind
from entitlement_sidecar.domain.decision import Degradation, Reason, Source, WarningKind
from entitlement_sidecar.wire.v1 import decision_pb2
from support.failures import failure
from support.processes import Sidecar

CONSUME = decision_pb2.CHECK_MODE_CONSUME


def test_a_boolean_feature_is_had_or_not(beside: Sidecar, tenant: str) -> None:
    """What the plan grants is ENABLED, what it switches off is denied; both say what they rest on."""
    had, missing = beside.check(tenant, "sso"), beside.check(tenant, "audit")
    assert (had.allowed, had.reason, had.kind) == (True, Reason.ENABLED, FeatureKind.BOOLEAN)
    assert (had.source, had.degradation, had.snapshot_version) == (Source.DISK, Degradation.NONE, 1)
    assert [one.id for one in had.provenance] == ["pro@1"]
    assert had.HasField("as_of")
    assert (missing.allowed, missing.reason) == (False, Reason.NOT_IN_PLAN)


def test_a_deprecated_feature_warns_and_obliges(beside: Sidecar, tenant: str) -> None:
    """The answer carries what the caller has to know and do besides (S4.6)."""
    decision = beside.check(tenant, "legacy")
    assert [one.kind for one in decision.warnings] == [WarningKind.DEPRECATED_FEATURE]
    assert decision.obligations.evaluation_required
    assert not decision.obligations.governance_required


@pytest.mark.parametrize(
    ("feature", "value", "reason"),
    [
        ("projects", "10", Reason.ENABLED),
        ("projects", "11", Reason.VALUE_NOT_ALLOWED),
        ("projects", '"10"', Reason.VALUE_NOT_ALLOWED),
        ("projects", "true", Reason.VALUE_NOT_ALLOWED),
        ("regions", '"eu"', Reason.ENABLED),
        ("regions", '["eu", "us"]', Reason.ENABLED),
        ("regions", '["eu", "ap"]', Reason.VALUE_NOT_ALLOWED),
        ("regions", "null", Reason.VALUE_NOT_ALLOWED),
    ],
)
def test_a_config_value_is_compared(
    beside: Sidecar, tenant: str, feature: str, value: str, reason: Reason
) -> None:
    """A number up to the granted one, text in the granted list, a list inside it; the grant is told."""
    decision = beside.check(tenant, feature, requested_value_json=value)
    assert (decision.reason, decision.allowed) == (reason, reason is Reason.ENABLED)
    assert decision.value_json == {"projects": "10", "regions": '["eu","us"]'}[feature]


def test_a_consume_of_what_is_not_counted_is_a_peek(beside: Sidecar, tenant: str) -> None:
    """Boolean and config features have nothing to consume, so nothing is named."""
    for feature in ("sso", "projects"):
        decision = beside.consume(tenant, feature, request_id="r1")
        assert (decision.allowed, decision.consumption_id) == (True, "")


def test_a_peek_looks_and_uses_nothing(beside: Sidecar, tenant: str) -> None:
    """However often it is asked; and a CONSUME of nothing is a PEEK."""
    looks = [beside.check(tenant, "calls", quantity=4) for _ in range(3)]
    looks.append(beside.consume(tenant, "calls", quantity=0))
    for look in looks:
        assert (look.allowed, look.reason) == (True, Reason.WITHIN_LIMIT)
        assert (look.limit, look.used, look.remaining) == (10, 0, 10)
        assert look.consumption_id == ""


def test_a_hard_limit_is_consumed_to_its_end(beside: Sidecar, tenant: str) -> None:
    """Exactly the limit is admitted; the denial says when to come again (S1.6)."""
    admitted = [beside.consume(tenant, "calls", quantity=2) for _ in range(5)]
    assert [(one.used, one.remaining) for one in admitted] == [(2, 8), (4, 6), (6, 4), (8, 2), (10, 0)]
    assert {one.reason for one in admitted} == {Reason.WITHIN_LIMIT}
    assert len({one.consumption_id for one in admitted}) == 5
    assert [one.kind for one in admitted[3].warnings] == [WarningKind.NEAR_LIMIT_80]
    assert [one.kind for one in admitted[4].warnings] == [WarningKind.NEAR_LIMIT_90]

    for ask in (beside.consume, beside.check):
        denied = ask(tenant, "calls")
        assert (denied.allowed, denied.reason) == (False, Reason.QUOTA_EXCEEDED)
        assert (denied.limit, denied.used, denied.remaining, denied.soft) == (10, 10, 0, False)
        assert denied.window_start.ToDatetime() < denied.reset_at.ToDatetime()
        assert denied.retry_after.ToTimedelta().total_seconds() > 0
        assert list(denied.notes) == ["billing:quota-exceeded:calls"]
        assert denied.consumption_id == ""


def test_what_can_never_fit_is_said_so(beside: Sidecar, tenant: str) -> None:
    """More than the whole limit: trying again is vain, so nothing says when."""
    for ask in (beside.consume, beside.check):
        denied = ask(tenant, "calls", quantity=11)
        assert (denied.allowed, denied.reason, denied.limit) == (False, Reason.EXCEEDS_LIMIT, 10)
        assert not denied.HasField("retry_after")
    assert beside.check(tenant, "calls").used == 0


def test_all_limits_hold(beside: Sidecar, tenant: str) -> None:
    """The numbers are those of the tightest limit."""
    assert beside.consume(tenant, "capped", quantity=3).remaining == 0
    denied = beside.consume(tenant, "capped")
    assert (denied.reason, denied.limit, denied.used) == (Reason.QUOTA_EXCEEDED, 3, 3)


def test_a_soft_limit_is_passed_and_told(beside: Sidecar, tenant: str) -> None:
    """Beyond it is allowed and counted as overage."""
    inside = beside.consume(tenant, "exports", quantity=5)
    beyond = beside.consume(tenant, "exports", quantity=3)
    assert (inside.reason, inside.overage, inside.soft) == (Reason.WITHIN_LIMIT, 0, True)
    assert (beyond.allowed, beyond.reason, beyond.overage) == (True, Reason.OVER_SOFT_LIMIT, 3)
    assert (beyond.limit, beyond.used, beyond.remaining) == (5, 8, 0)


def test_what_is_unlimited_is_recorded(beside: Sidecar, tenant: str) -> None:
    """No limit and no numbers; a CONSUME is an event all the same."""
    look, used = beside.check(tenant, "tokens"), beside.consume(tenant, "tokens", quantity=1_000_000)
    for decision in (look, used):
        assert (decision.allowed, decision.reason) == (True, Reason.UNLIMITED)
        assert not decision.HasField("limit")
    assert (look.consumption_id, used.consumption_id != "") == ("", True)


@pytest.mark.parametrize("feature", ["calls", "exports", "tokens"])
def test_a_request_id_gets_its_first_answer_again(beside: Sidecar, tenant: str, feature: str) -> None:
    """Consumed once; what came between does not change the answer."""
    first = beside.consume(tenant, feature, quantity=4, request_id="r1")
    beside.consume(tenant, feature, quantity=2)
    again = beside.consume(tenant, feature, quantity=4, request_id="r1")
    assert first.allowed
    assert again == first


def test_a_request_id_names_one_consumption(beside: Sidecar, tenant: str) -> None:
    """Another quantity is a conflict, and consumes nothing."""
    beside.consume(tenant, "calls", quantity=4, request_id="r1")
    failed = failure(partial(beside.consume, tenant, "calls", quantity=5, request_id="r1"))
    assert failed.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (failed.reason, failed.domain) == ("IDEMPOTENCY_CONFLICT", "entitlement.v1")
    assert "'r1' was used for quantity 4, not 5" in failed.message
    assert beside.check(tenant, "calls").used == 4


def test_a_denial_is_not_remembered(beside: Sidecar, tenant: str) -> None:
    """The same request id may fit later with less."""
    beside.consume(tenant, "calls", quantity=8)
    assert not beside.consume(tenant, "calls", quantity=3, request_id="r1").allowed
    assert beside.consume(tenant, "calls", quantity=2, request_id="r1").used == 10


def test_nobody_and_nothing_are_told_apart(beside: Sidecar, tenant: str) -> None:
    """An unknown tenant, an unknown feature: denials with a reason, no errors."""
    nobody, nothing = beside.check("nobody", "sso"), beside.check(tenant, "teleport")
    assert (nobody.allowed, nobody.reason) == (False, Reason.TENANT_UNKNOWN)
    assert list(nobody.notes) == ["billing:subscription-missing"]
    assert (nothing.allowed, nothing.reason, nothing.kind) == (False, Reason.FEATURE_UNKNOWN, 0)


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"tenant_id": ""}, "tenant_id", "1 to 128 letters"),
        ({"tenant_id": "a b"}, "tenant_id", "got 'a b'"),
        ({"feature": ""}, "feature", "1 to 64 lower-case letters"),
        ({"feature": "SSO"}, "feature", "got 'SSO'"),
        ({"quantity": -1}, "quantity", "expected 0 to 9007199254740991, got -1"),
        ({"quantity": 2**53}, "quantity", "got 9007199254740992"),
        ({"mode": 7}, "mode", "expected PEEK or CONSUME, got 7"),
        ({"subject": "s" * 257}, "subject", "at most 256 printable characters"),
        ({"request_id": "r" * 129}, "request_id", "at most 128 printable characters"),
        ({"correlation_id": "c\0"}, "correlation_id", "at most 256 printable characters"),
        ({"requested_value_json": "{"}, "requested_value_json", "expected JSON"),
        ({"requested_value_json": "{}"}, "requested_value_json", "not an object"),
        ({"requested_value_json": '"' + "v" * 4096 + '"'}, "requested_value_json", "at most 4096 bytes"),
        ({"min_snapshot_version": -1}, "min_snapshot_version", "0 or more"),
        ({"max_staleness": {"seconds": -1}}, "max_staleness", "zero or more"),
        ({"dimensions": {f"k{n}": "" for n in range(17)}}, "dimensions", "at most 16 entries, got 17"),
    ],
    ids=range(16),
)
def test_malformed_fields_are_named(
    beside: Sidecar, tenant: str, fields: dict[str, object], field: str, said: str
) -> None:
    """INVALID_ARGUMENT, with the field and what would be right."""
    asked = {"tenant_id": tenant, "feature": "sso", **fields}
    failed = failure(lambda: beside.check(asked.pop("tenant_id"), asked.pop("feature"), **asked))
    assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    assert list(failed.fields) == [field]
    assert said in failed.fields[field]
    assert field in failed.message


def test_every_malformed_field_is_named_at_once(beside: Sidecar) -> None:
    """One call says all that is wrong with it."""
    failed = failure(partial(beside.check, "", "X", quantity=-1))
    assert list(failed.fields) == ["tenant_id", "feature", "quantity"]


def test_bytes_that_are_no_message_are_refused(beside: Sidecar) -> None:
    """Said as such; the sidecar goes on."""
    call = beside.channel.unary_unary("/entitlement.v1.EntitlementService/CheckEntitlement")
    failed = failure(lambda: call(b"\xff\xff\xff", timeout=10))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == {"request": "expected a serialised CheckEntitlementRequest"}


def test_an_oversized_request_is_refused(beside: Sidecar, tenant: str) -> None:
    """More than 4 MiB are RESOURCE_EXHAUSTED with both sizes; the next call is answered."""
    failed = failure(partial(beside.check, tenant, "sso", subject="s" * (5 << 20)))
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4194304" in failed.message
    assert beside.check(tenant, "sso").allowed


def test_a_version_that_is_not_there_is_waited_for(beside: Sidecar, tenant: str) -> None:
    """A file has no newer version to offer: UNAVAILABLE after a while, to be tried again."""
    assert beside.check(tenant, "sso", min_snapshot_version=1).allowed
    assert beside.check(tenant, "sso", max_staleness={"seconds": 0}).allowed
    failed = failure(partial(beside.check, tenant, "sso", min_snapshot_version=99))
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "VERSION_NOT_REACHED")
