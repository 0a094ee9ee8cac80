"""ReportUsage: an outcome for each event, and what was accepted is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.usage import UsageOutcome
from entitlement_sidecar.wire.codec import to_timestamp
from entitlement_sidecar.wire.v1 import usage_pb2
from support.failures import failure
from support.processes import Sidecar


def event(tenant: str, id_: str = "", **more: object) -> usage_pb2.UsageEvent:
    fields = {"id": id_, "tenant_id": tenant, "metric": "exports", "value": 3, **more}
    return usage_pb2.UsageEvent(**fields)


def at(year: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime(year, 1, 1, tzinfo=UTC))
    return stamp


def test_each_event_has_its_own_outcome(beside: Sidecar, tenant: str) -> None:
    """One bad event never fails its neighbours."""
    results = beside.report(
        [
            event(tenant, "e1"),
            event(tenant, "e2", value=-1),
            event(tenant, "e1"),
            event(tenant, "e1", value=4),
            event(tenant, "e3", metric="steps"),
            event(tenant, "e4"),
        ]
    )
    assert [(one.id, one.outcome) for one in results] == [
        ("e1", UsageOutcome.ACCEPTED),
        ("e2", UsageOutcome.INVALID),
        ("e1", UsageOutcome.DUPLICATE),
        ("e1", UsageOutcome.CONFLICT),
        ("e3", UsageOutcome.UNKNOWN_METRIC),
        ("e4", UsageOutcome.ACCEPTED),
    ]
    assert "value" in results[1].reason
    assert "'steps' is not in catalogue version 1, which has calls, exports, tokens" in results[4].reason
    assert not any(one.retriable for one in results)


def test_what_was_accepted_is_known_again(beside: Sidecar, tenant: str) -> None:
    """In a later call: the same fact is a duplicate, another under its id a conflict that says so."""
    assert beside.report([event(tenant, "e1")])[0].outcome == UsageOutcome.ACCEPTED
    again, other = beside.report([event(tenant, "e1"), event(tenant, "e1", value=4)])
    assert again.outcome == UsageOutcome.DUPLICATE
    assert other.outcome == UsageOutcome.CONFLICT
    assert other.reason
    assert not other.retriable


def test_identity_belongs_to_a_tenant(beside: Sidecar, tenant: str) -> None:
    """Two tenants may use one id."""
    results = beside.report([event(tenant, "e1"), event(f"{tenant}-other", "e1")])
    assert {one.outcome for one in results} == {UsageOutcome.ACCEPTED}


def test_an_id_is_derived_from_what_happened(beside: Sidecar, tenant: str) -> None:
    """With correlation id and instant a report is safe to repeat; without them each one counts."""
    yesterday = to_timestamp(datetime.now(UTC) - timedelta(days=1))
    fact = event(tenant, correlation_id="c1", occurred_at=yesterday)
    [first], [again] = beside.report([fact]), beside.report([fact])
    assert (first.outcome, again.outcome) == (UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE)
    assert first.id == again.id != ""
    one, two = beside.report([event(tenant), event(tenant)])
    assert (one.outcome, two.outcome) == (UsageOutcome.ACCEPTED, UsageOutcome.ACCEPTED)
    assert one.id != two.id


def test_a_report_may_name_its_consumption(beside: Sidecar, tenant: str) -> None:
    """It adds attributes to what a CONSUME recorded already, also where the metric is billable."""
    consumed = beside.consume(tenant, "calls")
    [result] = beside.report([event(tenant, metric="calls", consumption_id=consumed.consumption_id)])
    assert result.outcome == UsageOutcome.ACCEPTED
    assert beside.check(tenant, "calls").used == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tenant_id": ""}, "tenant_id: expected 1 to 128 letters"),
        ({"metric": ""}, "metric: expected 1 to 64 lower-case letters"),
        ({"metric": "Exports"}, "metric: expected"),
        ({"value": -1}, "value: expected 0 to 9007199254740991, got -1"),
        ({"value": 2**53}, "value: expected"),
        ({"unit": "call"}, "unit: expected 'export', the unit of 'exports', got 'call'"),
        ({"id": "i" * 129}, "id: expected at most 128 printable characters"),
        ({"id": "a\nb"}, "id: expected at most 128 printable characters"),
        ({"correlation_id": "c" * 257}, "correlation_id: expected at most 256"),
        ({"subject": "s" * 257}, "subject: expected at most 256"),
        ({"actor_id": "\x00"}, "actor_id: expected at most 256 printable"),
        ({"emitter": "e" * 257}, "emitter: expected at most 256"),
        ({"consumption_id": "c" * 129}, "consumption_id: expected at most 128"),
        (
            {"occurred_at": at(1999)},
            "occurred_at: expected 2000-01-01T00:00:00+00:00 to 3000-01-01T00:00:00+00:00",
        ),
        ({"occurred_at": at(2900)}, "occurred_at: expected at most 0:05:00 ahead of the clock here, got "),
        ({"occurred_at": Timestamp(seconds=2**62)}, "occurred_at: expected"),
        (
            {"dimensions": {f"k{n}": "v" for n in range(17)}},
            "dimensions: expected at most 16 entries, got 17",
        ),
        ({"dimensions": {"": "v"}}, "dimensions: expected keys of 1 to 64 characters"),
        ({"dimensions": {"k": "v" * 257}}, "dimensions['k']: expected at most 256 characters"),
        ({"metric": "calls"}, "correlation_id: required, because usage of 'calls' is billable"),
    ],
    ids=range(20),
)
def test_what_is_invalid_is_named(beside: Sidecar, tenant: str, fields: dict[str, object], said: str) -> None:
    """The field and what would be right; its neighbours are kept."""
    bad, good = beside.report([event(tenant, **fields), event(tenant, "good")])
    assert (bad.outcome, bad.retriable) == (UsageOutcome.INVALID, False)
    assert bad.reason.startswith(said)
    assert good.outcome == UsageOutcome.ACCEPTED


@pytest.mark.parametrize("number", [0, 1001])
def test_a_report_has_a_size(beside: Sidecar, tenant: str, number: int) -> None:
    """Empty, or more than 1,000 events: refused as a whole, and nothing of it is kept."""
    failed = failure(lambda: beside.report([event(tenant, f"e{n}") for n in range(number)]))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == {"events": f"expected 1 to 1000 events, got {number}"}
    assert beside.report([event(tenant, "e0")])[0].outcome == UsageOutcome.ACCEPTED


def test_the_largest_report_is_kept(beside: Sidecar, tenant: str) -> None:
    """A thousand events in one call."""
    results = beside.report([event(tenant, f"e{n}") for n in range(1000)])
    assert {one.outcome for one in results} == {UsageOutcome.ACCEPTED}
