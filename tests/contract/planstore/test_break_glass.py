"""Break-glass at the plan store: into force, into the document for sidecars, on record, and out again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.audit import Entry
from entitlement_sidecar.domain.break_glass import MAX_ACTIVE, BreakGlassAction
from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision, ProvenanceKind, Reason
from entitlement_sidecar.planstore.catalogue import seal_catalogue_again
from entitlement_sidecar.planstore.catalogue.break_glass import Expiring
from entitlement_sidecar.planstore.catalogue.plans import current_row
from entitlement_sidecar.planstore.db import (
    AuditRow,
    BreakGlassRow,
    QuotaCounterRow,
    UsageEventRow,
)
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.envelopes import open_catalogue
from entitlement_sidecar.wire.signing import SigningKey
from support.shop import CATALOGUE, Shop

PATH = "/api/billing/break-glass"
OPEN_SSO = {"action": "open", "feature": "sso", "tenant_id": "acme", "reason": "incident 7"}
FREEZE_ALL = {"action": "freeze", "all_tenants": True, "reason": "a bad catalogue"}


@pytest.fixture
def shop(shop: Shop) -> Shop:
    """One with acme, on a plan without sso."""
    shop.apply()
    shop.subscribe()
    return shop


def begun(shop: Shop, **body: Any) -> dict[str, Any]:
    """What REST answers to a measure that is accepted."""
    answer = shop.rest.post(PATH, json=body)
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return view


def document(shop: Shop) -> CatalogueDocument:
    """What sidecars get."""
    with shop.database.reading() as session:
        row = current_row(session)
    assert row is not None
    return open_catalogue(shop.ring, row.envelope)


def check(shop: Shop, feature: str, **more: Any) -> Decision:
    """A check at the plan store itself."""
    return shop.dependencies().checks.check(CheckRequest("acme", feature, **more))


def entries(shop: Shop) -> list[Entry]:
    """The audit log."""
    with shop.database.reading() as session:
        return list(session.scalars(select(AuditRow).order_by(AuditRow.sequence)))


def test_what_is_opened_is_in_the_signed_document_and_on_the_feed(shop: Shop) -> None:
    """A new version of the document is announced, with the entry and the rest as it was."""
    before = document(shop)

    view = begun(shop, **OPEN_SSO, expires_in=7200)

    after = document(shop)
    assert after.version == before.version + 1
    assert (after.features, after.metrics) == (before.features, before.metrics)
    [one] = after.break_glass
    assert (one.id, one.action, one.feature) == (view["id"], BreakGlassAction.OPEN, "sso")
    assert (one.tenant_id, one.reason) == ("acme", "incident 7")
    assert one.since == shop.clock.now()
    assert one.until == shop.clock.now() + timedelta(hours=2)
    assert shop.outbox()[-1] == ("catalogue", "", after.version)
    assert shop.announced


def test_it_lasts_an_hour_where_nobody_says(shop: Shop) -> None:
    """Every one ends by itself."""
    begun(shop, **FREEZE_ALL)

    [one] = document(shop).break_glass
    assert (one.action, one.feature, one.tenant_id) == (BreakGlassAction.FREEZE, "", "")
    assert one.until - one.since == timedelta(hours=1)


def test_it_is_audited_with_its_reason(shop: Shop) -> None:
    """Its beginning and its end, each with who did it."""
    view = begun(shop, **OPEN_SSO)
    shop.rest.post(f"{PATH}/{view['id']}/end")

    opened, ended = entries(shop)[-2:]
    assert (opened.action, ended.action) == ("break_glass.opened", "break_glass.ended")
    assert opened.resource == ended.resource == f"break_glass/{view['id']}"
    assert (opened.actor, opened.tenant_id, opened.reason) == ("bootstrap", "acme", "incident 7")
    assert msgspec.json.decode(ended.before)["ended_at"] is None
    assert msgspec.json.decode(ended.after)["ended_at"] is not None


def test_ending_takes_it_out_of_the_document_and_repeats_harmlessly(shop: Shop) -> None:
    """The second end changes nothing, and makes no version and no entry."""
    view = begun(shop, **OPEN_SSO)

    first = shop.rest.post(f"{PATH}/{view['id']}/end").json()
    version, audited = document(shop).version, len(entries(shop))
    second = shop.rest.post(f"{PATH}/{view['id']}/end").json()

    assert (first["state"], first["ended_by"]) == ("ended", "bootstrap")
    assert second == first
    assert document(shop).break_glass == ()
    assert (document(shop).version, len(entries(shop))) == (version, audited)


def test_what_is_over_leaves_the_document_by_itself(shop: Shop) -> None:
    """The worker publishes once, and counts what is in force."""
    begun(shop, **OPEN_SSO, expires_in=60)
    begun(shop, **FREEZE_ALL)
    expiring = Expiring(shop.database, shop.key, shop.clock)
    assert not expiring.step()
    assert metrics.REGISTRY.get_sample_value("entitlement_break_glass_active", {"action": "open"}) == 1

    shop.clock.jump(61)

    assert expiring.step()
    assert not expiring.step()
    assert [one.action for one in document(shop).break_glass] == [BreakGlassAction.FREEZE]
    assert metrics.REGISTRY.get_sample_value("entitlement_break_glass_active", {"action": "open"}) == 0
    assert metrics.REGISTRY.get_sample_value("entitlement_break_glass_active", {"action": "freeze"}) == 1


def test_another_key_in_force_publishes_it_instead(shop: Shop) -> None:
    """A plan store that still runs with an old key leaves the document to the new one."""
    begun(shop, **OPEN_SSO, expires_in=60)
    shop.clock.jump(61)

    assert not Expiring(shop.database, SigningKey.generate(), shop.clock).step()


def test_what_an_older_plan_store_left_out_is_put_back(shop: Shop) -> None:
    """It applies a catalogue without what it does not know; the worker of this version sees to it."""
    begun(shop, **OPEN_SSO)
    with shop.database.writing() as session:
        row = current_row(session)
        assert row is not None
        row.break_glass = "[]"

    assert Expiring(shop.database, shop.key, shop.clock).step()
    assert len(document(shop).break_glass) == 1


def test_a_later_catalogue_keeps_what_is_in_force(shop: Shop) -> None:
    """So does one that is sealed again for another number of shards; an export does not name it."""
    view = begun(shop, **OPEN_SSO)

    shop.apply(CATALOGUE.replace("Basic", "Basis"))
    with shop.database.writing() as session:
        assert seal_catalogue_again(session, 4, shop.key, shop.clock.now())

    assert [one.id for one in document(shop).break_glass] == [view["id"]]
    assert view["id"] not in shop.rest.get("/api/billing/catalogue/export").text


def test_the_same_catalogue_again_is_no_new_version(shop: Shop) -> None:
    """What is in force is no part of what is compared."""
    begun(shop, **OPEN_SSO)
    version = document(shop).version

    assert not shop.apply().changed
    assert document(shop).version == version


def test_lists_are_the_newest_first_and_by_page(shop: Shop) -> None:
    """Those in force, unless asked for all."""
    first, second = begun(shop, **OPEN_SSO), begun(shop, **FREEZE_ALL)
    shop.rest.post(f"{PATH}/{first['id']}/end")

    active = shop.rest.get(PATH).json()
    page = shop.rest.get(PATH, params={"ended": "true", "limit": 1}).json()
    rest = shop.rest.get(PATH, params={"ended": "true", "cursor": page["next_cursor"]}).json()

    assert [one["id"] for one in active["break_glass"]] == [second["id"]]
    assert [one["id"] for one in page["break_glass"]] == [second["id"]]
    assert [(one["id"], one["state"]) for one in rest["break_glass"]] == [(first["id"], "ended")]
    shop.clock.jump(3601)
    [expired, _] = shop.rest.get(PATH, params={"ended": "true"}).json()["break_glass"]
    assert expired["state"] == "expired"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({**OPEN_SSO, "feature": "nothing"}, 422, "expected a feature of the catalogue in force"),
        ({**OPEN_SSO, "feature": ""}, 422, "got nothing"),
        ({**FREEZE_ALL, "feature": "sso"}, 422, "leave it out"),
        ({**OPEN_SSO, "all_tenants": True}, 422, "or else all_tenants"),
        ({"action": "freeze", "reason": "why"}, 422, "expected a tenant"),
        ({**OPEN_SSO, "tenant_id": "no tenant!"}, 422, "tenant_id"),
        ({**OPEN_SSO, "tenant_id": "globex"}, 404, "globex"),
        ({**OPEN_SSO, "expires_in": 8 * 86400}, 422, "expires_in"),
        ({**OPEN_SSO, "reason": ""}, 422, "reason"),
        ({**OPEN_SSO, "action": "burn"}, 422, "action"),
    ],
)
def test_what_is_wrong_is_named(shop: Shop, body: dict[str, Any], status: int, told: str) -> None:
    """And nothing is done."""
    version = document(shop).version

    answer = shop.rest.post(PATH, json=body)

    assert (answer.status_code, told in answer.text) == (status, True), answer.text
    assert document(shop).version == version


def test_without_a_catalogue_nothing_could_carry_it(database: Any) -> None:
    """409, with what to do."""
    answer = Shop(database).rest.post(PATH, json=FREEZE_ALL)

    assert (answer.status_code, "apply one" in answer.text) == (409, True), answer.text


def test_there_may_be_so_many_at_once(shop: Shop) -> None:
    """Each sidecar holds them all; what has ended makes room."""
    now = shop.clock.now()
    common = {"action": "freeze", "feature": "", "tenant_id": "acme", "reason": "r", "since": now}
    with shop.database.writing() as session:
        session.add_all(
            BreakGlassRow(
                id=f"bg_{n:03}", until=now + timedelta(hours=1), created_by="t", ended_by="", **common
            )
            for n in range(MAX_ACTIVE)
        )

    refused = shop.rest.post(PATH, json=OPEN_SSO)
    shop.rest.post(f"{PATH}/bg_007/end")

    assert (refused.status_code, "end some" in refused.text) == (409, True), refused.text
    assert shop.rest.post(PATH, json=OPEN_SSO).status_code == 201


def test_one_that_nobody_made_is_not_found(shop: Shop) -> None:
    """404, and where to look."""
    answer = shop.rest.post(f"{PATH}/bg_none/end")

    assert (answer.status_code, "break-glass list" in answer.text) == (404, True)


def test_a_repeated_request_makes_one(shop: Shop) -> None:
    """By its Idempotency-Key."""
    headers = {"Authorization": "Bearer of-this-test", "Idempotency-Key": "k1"}

    first = shop.rest.post(PATH, json=OPEN_SSO, headers=headers)
    second = shop.rest.post(PATH, json=OPEN_SSO, headers=headers)

    assert first.json() == second.json()
    assert len(document(shop).break_glass) == 1


def test_the_plan_store_itself_allows_what_is_opened(shop: Shop) -> None:
    """With note and provenance; its own entitlements say so too, and it counts."""
    counted = metrics.break_glass_decisions.labels("open")
    before = counted._value.get()
    view = begun(shop, **OPEN_SSO)

    decision = check(shop, "sso")
    listed = shop.rest.get("/api/billing/organizations/acme/entitlements").json()["entitlements"]

    assert (decision.allowed, decision.reason) == (True, Reason.ENABLED)
    assert [(one.kind, one.id) for one in decision.provenance] == [(ProvenanceKind.BREAK_GLASS, view["id"])]
    assert decision.notes == (f"billing:break-glass:open:{view['id']}",)
    [sso] = [one["decision"] for one in listed if one["feature"] == "sso"]
    assert (sso["allowed"], sso["provenance"][0]["kind"]) == (True, "BREAK_GLASS")
    assert counted._value.get() == before + 1
    shop.clock.jump(3601)
    assert check(shop, "sso").reason is Reason.NOT_IN_PLAN


def test_a_freeze_does_not_hold_the_plan_store(shop: Shop) -> None:
    """It answers by the newest, and says nothing of a freeze that is not its own."""
    begun(shop, **FREEZE_ALL)
    shop.subscribe(plan="trial")

    decision = check(shop, "sso")

    assert (decision.allowed, decision.notes) == (True, ())


def test_usage_of_an_opened_metered_feature_is_counted(shop: Shop) -> None:
    """It is in the ledger, and uses up the limit as what nobody admitted: so it shows when this is over."""
    begun(shop, action="open", feature="calls", all_tenants=True, reason="why")

    decision = check(shop, "calls", mode=CheckMode.CONSUME, quantity=900)

    assert (decision.allowed, decision.reason, decision.limit) == (True, Reason.UNLIMITED, None)
    with shop.database.reading() as session:
        [event] = session.scalars(select(UsageEventRow)).all()
        counters = session.scalars(select(QuotaCounterRow)).all()
    assert (event.value, event.lease_id) == (900, "")
    assert {(row.admitted, row.unadmitted) for row in counters} == {(0, 900)}
    shop.clock.jump(3601)
    assert check(shop, "calls").reason is Reason.QUOTA_EXCEEDED


def test_a_tenant_that_nobody_knows_is_allowed_what_is_open_for_all(shop: Shop) -> None:
    """Also to consume it; what is not opened stays unknown."""
    begun(shop, action="open", feature="calls", all_tenants=True, reason="why")
    checks = shop.dependencies().checks

    consumed = checks.check(CheckRequest("nobody", "calls", mode=CheckMode.CONSUME))
    other = checks.check(CheckRequest("nobody", "sso"))

    assert (consumed.allowed, consumed.reason) == (True, Reason.UNLIMITED)
    assert (other.allowed, other.reason) == (False, Reason.TENANT_UNKNOWN)
