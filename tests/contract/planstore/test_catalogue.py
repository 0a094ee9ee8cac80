"""Applying catalogues, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

from sqlalchemy import select

from entitlement_sidecar.domain.catalogue import Catalogue
from entitlement_sidecar.planstore.catalogue import (
    current_catalogue,
    current_document,
    find_plan,
    list_plans,
    plan_of,
)
from entitlement_sidecar.planstore.db import CatalogueRow
from entitlement_sidecar.wire.catalogue_file import parse_catalogue
from entitlement_sidecar.wire.envelopes import open_catalogue

DEARER = ('amount: "29.90"', 'amount: "39.90"')


def test_what_was_applied_reads_back_equal(shop: Any, catalogue_text: str) -> None:
    """Catalogue and plans survive storage exactly, money and windows included."""
    expected: Catalogue = parse_catalogue(catalogue_text, "test")

    with shop.database.reading() as session:
        version, stored = current_catalogue(session) or (0, None)
        plans = {row.code: plan_of(row) for row in list_plans(session)}

    assert version == 1
    assert stored == expected
    assert plans == expected.plans
    assert str(plans["basic"].price.amount) == "29.90"


def test_the_same_again_changes_nothing(shop: Any) -> None:
    """Applying is idempotent: no version, no plan, nothing to publish."""
    before = shop.outbox()

    result = shop.apply()

    assert (result.version, result.changed) == (1, False)
    assert shop.outbox() == before == [("catalogue", "", 1)]


def test_only_what_changed_gets_a_version(shop: Any, catalogue_text: str) -> None:
    """One price changes one plan, and the version before is no longer for sale."""
    result = shop.apply(catalogue_text.replace(*DEARER))

    assert (result.version, result.plans, result.add_ons, result.retired) == (2, ("basic@2",), (), ())
    with shop.database.reading() as session:
        assert find_plan(session, "basic").price_amount == Decimal("39.90")
        assert not find_plan(session, "basic@1").active
        assert find_plan(session, "trial").version == 1


def test_what_is_not_named_any_more_is_retired_and_may_return(shop: Any, catalogue_text: str) -> None:
    """A plan that a catalogue leaves out is not for sale; named again, it is the same version."""
    without = catalogue_text.partition("add_ons:")[0].replace("  free:", "  gratis:")

    result = shop.apply(without)
    again = shop.apply(catalogue_text)

    assert result.retired == ("free", "more")
    assert result.plans == ("gratis@1",)
    assert (again.plans, again.retired) == ((), ("gratis",))


def test_the_document_for_sidecars_is_signed(shop: Any) -> None:
    """What is stored for sidecars opens with the key and is what the plan store itself goes by."""
    with shop.database.reading() as session:
        row = session.scalars(select(CatalogueRow)).one()
        document = current_document(session)

    assert open_catalogue(shop.ring, row.envelope) == document


def test_several_at_once_make_one_version(shop: Any, catalogue_text: str) -> None:
    """Replicas that apply the same change at once end with one new version."""
    dearer = catalogue_text.replace(*DEARER)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(shop.apply, [dearer] * 4))

    assert {result.version for result in results} == {2}
    assert sum(result.changed for result in results) == 1
