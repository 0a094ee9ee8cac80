"""What a catalogue would change and whom it would touch, over REST, on both databases."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from entitlement_sidecar.planstore.db import FeatureRow, MetricRow, PlanRow
from entitlement_sidecar.wire.catalogue_file import parse_catalogue
from support.shop import AUTHORISED, CATALOGUE

CATALOGUES = "/api/billing/catalogue"
YAML = {**AUTHORISED, "content-type": "application/yaml"}
WITHOUT_SSO = CATALOGUE.replace("  sso: {kind: boolean}\n", "").replace("      sso: true\n", "")
PACKS_COUNTED = (
    CATALOGUE.replace("packs: {kind: config}", "packs: {kind: seats}")
    .replace("packs: {value: 2}", "packs: {seats: 2}")
    .replace("packs: {value: 1}", "packs: {seats: 1}")
)


def post(shop: Any, text: str, path: str = "", **query: Any) -> Any:
    """Sends a catalogue."""
    return shop.rest.post(f"{CATALOGUES}{path}", content=text, headers=YAML, params=query)


def diff(shop: Any, text: str) -> dict[str, Any]:
    """What a catalogue would change."""
    answer = post(shop, text, "/diff")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_diff_tells_every_field(shop: Any) -> None:
    """Added, changed from and to, retired, with the version that each gets; and nothing is changed by it."""
    before = shop.outbox()
    changed = (
        CATALOGUE.replace('"29.90"', '"39.90"')
        .replace("amount: 5, window: day", "amount: 4, window: day")
        .replace("  free:", "  gratis:")
        .partition("add_ons:")[0]
    )

    found = diff(shop, changed)

    assert (found["version"], found["changed"], found["effects"]) == (1, True, [])
    told = {(one["section"], one["key"]): one for one in found["differences"]}
    assert {key: (one["change"], one["becomes"]) for key, one in told.items()} == {
        ("plans", "basic"): ("changed", "basic@2"),
        ("plans", "gratis"): ("added", "gratis@1"),
        ("plans", "free"): ("retired", None),
        ("add_ons", "more"): ("retired", None),
    }
    assert told["plans", "basic"]["fields"] == [
        {"path": "price.amount", "old": "29.90", "new": "39.90"},
        {"path": "entitlements.calls.limits[day].amount", "old": 5, "new": 4},
    ]
    assert shop.outbox() == before


def test_the_same_catalogue_differs_in_nothing(shop: Any) -> None:
    """No differences, nobody touched."""
    found = diff(shop, CATALOGUE)

    assert (found["changed"], found["differences"], found["effects"]) == (False, [], [])


def test_a_changed_plan_takes_nothing_from_its_subscribers(shop: Any) -> None:
    """They keep the version that they bought, so it is applied without more."""
    shop.subscribe()
    poorer = CATALOGUE.replace("      packs: {value: 2}\n", "")

    assert diff(shop, poorer)["effects"] == []
    assert post(shop, poorer).json()["plans"] == ["basic@2"]


def test_a_feature_in_use_is_not_taken_unasked(shop: Any) -> None:
    """Who has it is named, nothing is changed; accepted, it is done, and the same again changes nothing."""
    shop.subscribe("acme", "trial")
    shop.subscribe("globex", "basic")

    effects = diff(shop, WITHOUT_SSO)["effects"]
    refused = post(shop, WITHOUT_SSO)
    in_force = shop.rest.get(CATALOGUES).json()["version"]
    accepted = post(shop, WITHOUT_SSO, accept_losses="true")
    again = post(shop, WITHOUT_SSO)

    assert [(one["key"], one["change"], one["gained"]["tenants"]) for one in effects] == [
        ("sso", "retired", 0)
    ]
    assert effects[0]["lost"] == {"tenants": 1, "first": [{"tenant_id": "acme", "what": ["all of it"]}]}
    assert (refused.status_code, refused.json()["reason"]) == (409, "TAKES_FROM_TENANTS")
    assert "feature 'sso' is retired: 1 tenant: acme (all of it)" in refused.json()["detail"]
    assert refused.json()["losses"] == [
        {
            "section": "features",
            "key": "sso",
            "change": "retired",
            "tenants": 1,
            "first": [{"tenant_id": "acme", "loses": ["all of it"]}],
        }
    ]
    assert in_force == 1
    assert (accepted.status_code, accepted.json()["version"]) == (200, 2)
    assert (again.status_code, again.json()["changed"]) == (200, False)


def test_what_comes_back_is_gained(shop: Any) -> None:
    """A feature that old plan versions grant and the catalogue names again is there again."""
    shop.subscribe("acme", "trial")
    post(shop, WITHOUT_SSO, accept_losses="true")

    (effect,) = diff(shop, CATALOGUE)["effects"]

    assert (effect["key"], effect["change"], effect["lost"]["tenants"]) == ("sso", "added", 0)
    assert effect["gained"]["first"] == [{"tenant_id": "acme", "what": ["all of it"]}]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (
            CATALOGUE.replace("packs: {kind: config}", "packs: {kind: config, outage: {when_unknown: deny}}"),
            ["outage: when_unknown allow → when_unknown deny"],
        ),
        (
            CATALOGUE.replace(
                "packs: {kind: config}",
                "packs: {kind: config, outage: {after_stale: deny, serve_stale_for: 90s}}",
            ),
            ["outage: answered however stale → denied after 90 s"],
        ),
    ],
    ids=["when unknown", "stale"],
)
def test_outage_is_of_everybody(shop: Any, changed: str, what: list[str]) -> None:
    """What belongs to the whole catalogue changes what tenants have now."""
    shop.subscribe("acme", "basic")
    shop.subscribe("globex", "trial")

    (effect,) = diff(shop, changed)["effects"]

    assert (effect["key"], effect["lost"]["first"]) == ("packs", [{"tenant_id": "acme", "what": what}])
    assert post(shop, changed).status_code == 409


@pytest.mark.parametrize("losses", ["false", "true"])
def test_a_feature_keeps_its_kind(shop: Any, losses: str) -> None:
    """Whatever is accepted, also when it comes back: what was bought grants it as what it is."""
    shop.subscribe("acme", "basic")
    without = CATALOGUE.replace("  packs: {kind: config}\n", "").replace("      packs: {value: 2}\n", "")
    without = without.replace("      packs: {value: 1}\n", "      sso: false\n")

    told = [post(shop, PACKS_COUNTED, accept_losses=losses), post(shop, PACKS_COUNTED, "/diff")]
    assert post(shop, without, accept_losses="true").status_code == 200
    told.append(post(shop, PACKS_COUNTED, accept_losses=losses))

    assert [one.status_code for one in told] == [422, 422, 422]
    assert {one.json()["violations"][0]["field"] for one in told} == {"features.packs.kind"}


def test_titles_touch_nobody(shop: Any) -> None:
    """What only people read is applied without a question."""
    shop.subscribe("acme", "trial")
    renamed = CATALOGUE.replace("sso: {kind: boolean}", "sso: {kind: boolean, title: One login}")

    found = diff(shop, renamed)

    assert found["effects"] == []
    assert found["differences"][0]["fields"] == [{"path": "title", "old": "", "new": "One login"}]
    assert post(shop, renamed).status_code == 200


def test_a_metric_that_is_reported_is_not_taken_unasked(shop: Any) -> None:
    """Its events would be refused: who sent some lately is told."""
    shop.subscribe("acme", "basic")
    shop.rest.post(
        "/api/billing/organizations/acme/quotas/check",
        json={"feature": "calls", "quantity": 2, "record_usage": True, "request_id": "r1"},
    )
    renamed = CATALOGUE.replace("unit: call,", "unit: request,")

    (effect,) = diff(shop, renamed)["effects"]

    assert (effect["section"], effect["key"], effect["lost"]["tenants"]) == ("metrics", "calls", 1)
    assert effect["lost"]["first"][0]["tenant_id"] == "acme"
    assert post(shop, renamed).status_code == 409


def test_of_many_tenants_the_first_are_named(shop: Any) -> None:
    """All are counted, a hundred named, whatever the pages are."""
    for n in range(103):
        shop.subscribe(f"t{n:03}", "trial")

    (effect,) = diff(shop, WITHOUT_SSO)["effects"]

    assert effect["lost"]["tenants"] == 103
    assert [one["tenant_id"] for one in effect["lost"]["first"]] == [f"t{n:03}" for n in range(100)]
    assert "and 98 more" in post(shop, WITHOUT_SSO).json()["detail"]


def test_what_is_exported_is_what_was_applied(shop: Any) -> None:
    """Any version, as a file that reads as the same catalogue and that applying again changes nothing."""
    post(shop, CATALOGUE.replace('"29.90"', '"39.90"'))

    first = shop.rest.get(f"{CATALOGUES}/export", params={"version": 1})
    newest = shop.rest.get(f"{CATALOGUES}/export")

    assert first.headers["content-type"].startswith("application/yaml")
    assert parse_catalogue(first.text, "exported") == parse_catalogue(CATALOGUE, "test")
    assert newest.text.startswith("# Version 2 of the catalogue")
    assert post(shop, newest.text).json()["changed"] is False


@pytest.mark.parametrize(("old", "new"), [("1", "true"), ("true", "1"), ("1", "1.0"), ('"1"', "1")])
def test_kinds_of_values_are_told_apart(shop: Any, old: str, new: str) -> None:
    """A value of another kind of JSON is another value, in what is told, stored and recorded."""
    post(shop, CATALOGUE.replace("{value: 2}", f"{{value: {old}}}"))
    wanted = CATALOGUE.replace("{value: 2}", f"{{value: {new}}}")

    told, applied = diff(shop, wanted), post(shop, wanted).json()

    assert [one["becomes"] for one in told["differences"]] == applied["plans"] == ["basic@3"]
    assert [one["path"] for one in told["differences"][0]["fields"]] == ["entitlements.packs.value"]
    entries = shop.rest.get("/api/billing/audit").json()["entries"]
    (recorded,) = (json.loads(one["after"]) for one in entries if one["resource"] == "catalogue/3")
    assert recorded["plans"] == {"changed": ["basic"]}
    assert f"packs: {{value: {new}}}" in shop.rest.get(f"{CATALOGUES}/export").text
    assert post(shop, wanted).json()["changed"] is False


@pytest.mark.parametrize(
    "value",
    ["yes", "no", "on", "1e3", "1e300", "0.1", "-0.0", "1.0", "2026-01-01", "1_000", "0o17", "+5", "'1:20'",
     "9007199254740993", "'~'", "'null'", "'0x1F'", "'<<'", "'='", "'---'", "' # x'", "''", "[]", "'.inf'",
     '"\\u0085\\u2028\\ufeff\\xa0"', '"a\\nb\\t"', "'😀'"],
)  # fmt: skip
def test_what_is_exported_reads_as_it_was(shop: Any, value: str) -> None:
    """Whatever a reader of YAML may take for something else comes back as what it was."""
    assert post(shop, CATALOGUE.replace("{value: 2}", f"{{value: {value}}}")).status_code == 200

    exported = shop.rest.get(f"{CATALOGUES}/export").text

    assert diff(shop, exported)["differences"] == []
    assert post(shop, exported).json()["changed"] is False


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/catalogue/export?version=7", 404, "no catalogue of version 7: the newest is version 1"),
        ("/catalogue/export?version=0", 422, "version"),
        ("/catalogue/export?version=x", 422, "version"),
        ("/features?limit=0", 422, "limit"),
        ("/features?cursor=A%20B", 422, "cursor"),
    ],
)
def test_wrong_questions_are_told(shop: Any, path: str, status: int, said: str) -> None:
    """What is wrong is named, with what would be right."""
    answer = shop.rest.get(f"/api/billing{path}")

    assert answer.status_code == status
    assert said in answer.text


@pytest.mark.parametrize("path", ["", "/diff"])
def test_a_wrong_catalogue_is_told_with_places(shop: Any, path: str) -> None:
    """Neither applied nor compared: every problem with line and column; and only YAML is read."""
    wrong = post(shop, CATALOGUE.replace("kind: boolean", "kind: bool"), path)
    untyped = shop.rest.post(f"{CATALOGUES}{path}", content="{}", headers=AUTHORISED)

    assert (wrong.status_code, wrong.json()["reason"]) == (422, "INVALID_CATALOGUE")
    assert wrong.json()["problems"][0]["path"] == "features.sso.kind"
    assert untyped.status_code == 415


def test_features_come_by_page(shop: Any) -> None:
    """Each once, in the order of their keys."""
    found: list[str] = []
    cursor = ""
    while cursor is not None:
        page = shop.rest.get("/api/billing/features", params={"limit": 3, "cursor": cursor}).json()
        found += [one["key"] for one in page["features"]]
        cursor = page["next_cursor"]

    assert found == ["calls", "packs", "reports", "sso"]


def test_tables_of_features_and_metrics_follow(shop: Any) -> None:
    """What the catalogue names stands there; what it does not name any more is retired, until it returns."""
    gone = WITHOUT_SSO.replace("  calls: {domain: api, unit: call", "  calls: {domain: web, unit: call")
    post(shop, gone)

    def rows(kind: Any) -> dict[str, tuple[bool, int]]:
        with shop.database.reading() as session:
            return {row.key: (row.retired, row.catalogue_version) for row in session.scalars(select(kind))}

    assert rows(FeatureRow) == {
        "calls": (False, 1),
        "reports": (False, 1),
        "packs": (False, 1),
        "sso": (True, 2),
    }
    assert rows(MetricRow) == {"calls": (False, 2), "reports": (False, 1)}
    post(shop, CATALOGUE)
    assert rows(FeatureRow)["sso"] == (False, 3)


def test_plans_of_several_products(shop: Any) -> None:
    """A plan says which product it is of, a change of it is a new version, and a tenant has one of each."""
    several = CATALOGUE.replace(
        "    title: With a trial\n", "    title: With a trial\n    product: support\n"
    )

    applied = post(shop, several).json()
    shop.subscribe("acme", "basic")
    shop.subscribe("acme", "trial")

    assert applied["plans"] == ["trial@2"]
    with shop.database.reading() as session:
        found = {f"{row.code}@{row.version}": row.product for row in session.scalars(select(PlanRow))}
    assert found == {"basic@1": "default", "trial@1": "default", "free@1": "default", "trial@2": "support"}
    assert {one.plan for one in shop.snapshot().subscriptions} == {"basic", "trial"}
    listed = shop.rest.get("/api/billing/plans").json()["plans"]
    assert {one["code"]: one["product"] for one in listed}["trial"] == "support"


def test_a_product_is_a_key(shop: Any) -> None:
    """Like every other name; what is none is told with its place."""
    answer = post(
        shop, CATALOGUE.replace("    title: Free\n", "    title: Free\n    product: No Key\n"), "/diff"
    )

    assert answer.json()["problems"][0]["path"] == "plans.free.product"
