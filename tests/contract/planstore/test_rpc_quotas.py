"""QuotaService, on both databases, through grpcio-testing."""

from __future__ import annotations

from typing import Any

import grpc
import grpc_testing
import pytest

from entitlement_sidecar.planstore.api.rpc_quotas import QuotaServicer
from entitlement_sidecar.planstore.subscriptions import Target
from entitlement_sidecar.wire.codec import usage_from_proto
from entitlement_sidecar.wire.v1 import quota_pb2

SERVICE = quota_pb2.DESCRIPTOR.services_by_name["QuotaService"]


@pytest.fixture
def consume(shop: Any) -> Any:
    """Calls Consume; answers (response, code, details)."""
    servicer = QuotaServicer(shop.quotas)
    server = grpc_testing.server_from_dictionary({SERVICE: servicer}, grpc_testing.strict_real_time())

    def call(**fields: Any) -> Any:
        request = quota_pb2.ConsumeRequest(**{"tenant_id": "acme", "feature": "calls", **fields})
        method = SERVICE.methods_by_name["Consume"]
        response, _, code, details = server.invoke_unary_unary(method, {}, request, None).termination()
        return response, code, details

    return call


def test_an_amount_is_admitted_inside_every_limit(shop: Any, consume: Any) -> None:
    """The answer names the admission, the usage of each limit, the version and the time."""
    shop.subscribe()

    response, code, _ = consume(quantity=2, request_id="one")

    assert code is grpc.StatusCode.OK
    assert response.admitted
    assert response.lease_id.startswith("root:")
    usage = [usage_from_proto(limit) for limit in response.usage]
    assert [(u.key.partition("@")[0], u.amount, u.used) for u in usage] == [
        ("billing_cycle", 50, 2),
        ("day", 5, 2),
    ]
    assert response.snapshot_version == 1
    assert response.as_of.ToDatetime(shop.clock.now().tzinfo) == shop.clock.now()


def test_a_spent_limit_refuses(shop: Any, consume: Any) -> None:
    """Refused is an answer that says what is used, not an error."""
    shop.subscribe()
    consume(quantity=5, request_id="one")

    response, code, _ = consume(quantity=1, request_id="two")

    assert (code, response.admitted, len(response.usage)) == (grpc.StatusCode.OK, False, 2)


def test_zero_reads(shop: Any, consume: Any) -> None:
    """Quantity 0 needs no request id and changes nothing."""
    shop.subscribe()

    response, code, _ = consume()

    assert (code, response.admitted, response.usage[0].used) == (grpc.StatusCode.OK, False, 0)


def test_limits_in_force_are_the_newest_snapshots(shop: Any, consume: Any) -> None:
    """More bought takes effect with the next call, whatever the caller's own snapshot says."""
    shop.subscribe()
    consume(quantity=5, request_id="one")
    shop.subscribe(add_ons={"more": 1})

    response, _, _ = consume(quantity=3, request_id="two")

    assert (response.admitted, response.snapshot_version) == (True, 2)


@pytest.mark.parametrize(("feature", "admitted"), [("reports", True), ("nothing", False)])
def test_features_without_limits_have_no_usage(shop: Any, consume: Any, feature: str, admitted: bool) -> None:
    """Unlimited is admitted; what no catalogue names nobody has; neither has usage."""
    shop.subscribe()

    response, code, _ = consume(feature=feature, quantity=1, request_id="one")

    assert (code, response.admitted, list(response.usage)) == (grpc.StatusCode.OK, admitted, [])


def test_a_feature_that_is_not_metered_has_no_quota(shop: Any, consume: Any) -> None:
    """Asking for quota of a boolean feature is a mistake of the caller."""
    shop.subscribe()

    _, code, details = consume(feature="sso", quantity=1, request_id="one")

    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "feature: 'sso' is boolean; expected one that is counted",
    )


def test_a_suspended_tenant_gets_nothing(shop: Any, consume: Any) -> None:
    """Without a live entitlement there are no limits and no admission."""
    shop.subscribe()
    with shop.database.writing() as session:
        shop.subscriptions.suspend(session, Target(tenant_id="acme"))

    response, code, _ = consume(quantity=1, request_id="one")

    assert (code, response.admitted, list(response.usage)) == (grpc.StatusCode.OK, False, [])


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"tenant_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "tenant_id"),
        ({"feature": "A b"}, grpc.StatusCode.INVALID_ARGUMENT, "feature"),
        ({"quantity": -1}, grpc.StatusCode.INVALID_ARGUMENT, "quantity"),
        ({"quantity": 1}, grpc.StatusCode.INVALID_ARGUMENT, "request_id"),
        ({"quantity": 1, "request_id": "x" * 129}, grpc.StatusCode.INVALID_ARGUMENT, "request_id"),
        ({"quantity": 1, "request_id": "a\0b"}, grpc.StatusCode.INVALID_ARGUMENT, "request_id"),
        ({"tenant_id": "nobody"}, grpc.StatusCode.NOT_FOUND, "nobody"),
    ],
)
def test_errors_name_the_field(
    shop: Any, consume: Any, fields: dict[str, Any], code: grpc.StatusCode, text: str
) -> None:
    """What cannot be judged has a status, and its message names what is wrong."""
    shop.subscribe()

    _, found, details = consume(**fields)

    assert found is code
    assert text in details


def test_a_reused_request_id_conflicts(shop: Any, consume: Any) -> None:
    """The same id for another quantity is FAILED_PRECONDITION; for the same one, the first answer."""
    shop.subscribe()
    first, _, _ = consume(quantity=2, request_id="one")

    again, _, _ = consume(quantity=2, request_id="one")
    _, code, details = consume(quantity=3, request_id="one")

    assert again == first
    assert (code, "'one'" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)


@pytest.fixture
def consume_all(shop: Any) -> Any:
    """Calls ConsumeAll; answers (response, code, details)."""
    servicer = QuotaServicer(shop.quotas)
    server = grpc_testing.server_from_dictionary({SERVICE: servicer}, grpc_testing.strict_real_time())

    def call(*items: dict[str, Any], tenant_id: str = "acme") -> Any:
        asked = [quota_pb2.ConsumeRequest(**item) for item in items]
        request = quota_pb2.ConsumeAllRequest(tenant_id=tenant_id, items=asked)
        method = SERVICE.methods_by_name["ConsumeAll"]
        response, _, code, details = server.invoke_unary_unary(method, {}, request, None).termination()
        return response, code, details

    return call


def test_several_amounts_are_admitted_together(shop: Any, consume_all: Any) -> None:
    """All or none; a feature that the tenant lacks takes the others with it."""
    shop.subscribe()
    calls = {"feature": "calls", "quantity": 3, "request_id": "a"}
    reports = {"feature": "reports", "quantity": 9, "request_id": "b"}

    response, code, _ = consume_all(calls, reports)
    assert (code, response.admitted) == (grpc.StatusCode.OK, True)
    assert [one.admitted for one in response.results] == [True, True]

    response, _, _ = consume_all({**calls, "request_id": "c"}, {**reports, "request_id": "d"})
    assert (response.admitted, [one.admitted for one in response.results]) == (False, [False, True])

    response, _, _ = consume_all(
        {**calls, "quantity": 1, "request_id": "e"}, {**reports, "feature": "nothing", "request_id": "f"}
    )
    assert (response.admitted, [len(one.usage) for one in response.results]) == (False, [2, 0])
    assert {limit.used for limit in response.results[0].usage} == {3}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "items: expected 1 to 100, got 0"),
        ([{"feature": "calls", "quantity": 1, "request_id": "a"}] * 101, "items: expected 1 to 100, got 101"),
        ([{"feature": "calls", "request_id": "a"}], "items[0].quantity: expected 1 or more"),
        ([{"feature": "calls", "quantity": 1}], "items[0].request_id"),
        ([{"feature": "A", "quantity": 1, "request_id": "a"}], "items[0].feature"),
        ([{"tenant_id": "x", "feature": "a", "quantity": 1, "request_id": "a"}], "items[0].tenant_id"),
        ([{"feature": "a", "quantity": 1, "request_id": "a", "subject": "\0"}], "items[0].subject"),
    ],
    ids=range(7),
)
def test_what_is_wrong_in_an_item_is_named_by_its_place(
    consume_all: Any, items: list[dict[str, Any]], said: str
) -> None:
    """INVALID_ARGUMENT with the path of the field."""
    _, code, details = consume_all(*items)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert said in details
