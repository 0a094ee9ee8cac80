"""Identity and digest of usage (S0.5)."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from entitlement_sidecar.domain.usage import UsageEvent, _hash, consumption_event_id, derived_event_id

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


def event(**changes: object) -> UsageEvent:
    """An event of acme, changed as asked."""
    base = UsageEvent(
        id="e1", tenant_id="acme", metric="calls", value=3, unit="call", occurred_at=NOW, recorded_at=NOW
    )
    return msgspec.structs.replace(base, **changes)


def test_a_second_delivery_is_the_same_fact() -> None:
    """Recorded-at, recorder and registry version may differ."""
    later = event(recorded_at=NOW + timedelta(1), recorded_by="other", registry_version=7)
    first = event(recorded_at=NOW + timedelta(2))
    assert later.digest() == first.digest()


def test_an_event_without_a_time_of_its_own_may_be_sent_again() -> None:
    """Its occurred-at is its recorded-at, whenever that is."""
    again = event(occurred_at=NOW + timedelta(5), recorded_at=NOW + timedelta(5))
    assert event().digest() == again.digest()


def test_other_content_is_another_fact() -> None:
    """Value, subject and dimensions count."""
    digests = {event().digest(), event(value=4).digest(), event(subject="u").digest()}
    assert len(digests | {event(dimensions={"a": "b"}).digest()}) == 4


def test_derived_ids_tell_facts_apart() -> None:
    """Equal facts get equal ids; the ordinal tells equal ones of one call apart."""

    def derive(**changes: object) -> str:
        parts = {
            "tenant_id": "acme", "metric": "calls", "correlation_id": "r1", "occurred_at": NOW,
            "subject": "", "emitter": "", "dimensions": {},
        }  # fmt: skip
        return derived_event_id(**{**parts, **changes})  # type: ignore[arg-type]

    assert derive() == derive()
    assert len({derive(), derive(ordinal=1), derive(subject="u"), derive(metric="other")}) == 4


def test_a_consumption_is_named_by_its_request() -> None:
    """Tenant, feature and request id; parts cannot run into each other."""
    assert consumption_event_id("a", "b", "c") == consumption_event_id("a", "b", "c")
    assert consumption_event_id("a", "bc", "d") != consumption_event_id("a", "b", "cd")


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3))
@example("work", {"b": "2", "a": "1"})
@example('größe \x7f\n"\\/', {"ключ": "\u2028", "a\x00": "😀"})
def test_the_hashed_form_never_changes(text: str, dimensions: dict[str, str]) -> None:
    """Canonical JSON, whatever is in it: identities and digests that are stored have to be found again."""
    canonical = json.dumps((text, 7, dimensions), sort_keys=True, separators=(",", ":"))

    assert _hash(text, 7, dimensions) == hashlib.sha256(canonical.encode()).digest()
