"""The metric registry in the plan store: what changes in it is told, audited and sent to sidecars."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select

from entitlement_sidecar.planstore.catalogue import current_catalogue, current_document
from entitlement_sidecar.planstore.catalogue.differences import compare
from entitlement_sidecar.planstore.db import AuditRow, CatalogueRow, MetricRow
from entitlement_sidecar.wire.catalogue_dump import dump_catalogue
from entitlement_sidecar.wire.catalogue_file import parse_catalogue
from entitlement_sidecar.wire.envelopes import open_catalogue
from entitlement_sidecar.wire.signing import KeyRing
from support.shop import CATALOGUE

REGISTRY = (
    CATALOGUE.replace("window: month, classification: billable, feature: calls}", "terminal: true}")
    + """
emitters:
  gateway: {metrics: [calls]}
  crm: {external: true}
rules:
  failed: {domains: [api], when: {dimensions.status: [failed]}}
  tests: {when: {subject: ["test-*"]}, then: refuse}
task_metrics: {task: calls}
retention: {billable: 800d}
"""
)


def told(before: str, after: str) -> dict[tuple[str, str], dict[str, list[Any]]]:
    """What is new, other or gone in the registry: by section and key, the fields of what changed."""
    found = compare(parse_catalogue(before, "before"), parse_catalogue(after, "after"))
    return {
        (one.section, f"{one.key} {one.change}"): {field.path: [field.old, field.new] for field in one.fields}
        for one in found
    }


def test_a_diff_tells_what_changes_in_the_registry() -> None:
    """Emitters, rules, tasks and retention, field by field; and metrics as ever."""
    changed = (
        REGISTRY.replace("{external: true}", "{}")
        .replace("[failed]", "[failed, cancelled]")
        .replace("800d", "900d")
        .replace("{task: calls}", "{input_tokens: calls}")
        .replace("terminal: true", "max_age: 7d")
    )

    assert told(REGISTRY, changed) == {
        ("metrics", "calls changed"): {"terminal": [True, False], "max_age": ["35d", "7d"]},
        ("emitters", "crm changed"): {"external": [True, False]},
        ("rules", "failed changed"): {"when.dimensions.status": [["failed"], ["failed", "cancelled"]]},
        ("task_metrics", "input_tokens added"): {},
        ("task_metrics", "task retired"): {},
        ("retention", "billable changed"): {"kept": ["800d", "900d"]},
    }


def test_a_diff_tells_another_order_of_rules() -> None:
    """Since the first that is true decides."""
    lines = REGISTRY.splitlines(keepends=True)
    at = next(place for place, line in enumerate(lines) if line.startswith("  failed:"))
    lines[at], lines[at + 1] = lines[at + 1], lines[at]

    assert told(REGISTRY, "".join(lines)) == {
        ("rules", "tests changed"): {"order": [2, 1]},
        ("rules", "failed changed"): {"order": [1, 2]},
    }
    assert told(REGISTRY, REGISTRY) == {}


def test_the_registry_is_in_what_sidecars_get(shop: Any) -> None:
    """Signed, as the plan store itself judges by it, and as the catalogue reads when it is exported."""
    shop.apply(REGISTRY)

    with shop.database.reading() as session:
        document = current_document(session)
        _, stored = current_catalogue(session) or (0, None)
        envelope = session.scalars(
            select(CatalogueRow.envelope).order_by(CatalogueRow.version.desc())
        ).first()
        body = session.scalars(select(MetricRow.body).where(MetricRow.key == "calls")).one()

    keys = KeyRing({shop.key.key_id: shop.key.public_bytes})
    assert open_catalogue(keys, envelope) == document
    assert [rule.key for rule in document.rules] == ["failed", "tests"]
    assert document.emitters["crm"].external
    assert stored is not None
    assert parse_catalogue(dump_catalogue(stored), "exported") == parse_catalogue(REGISTRY, "applied")
    assert json.loads(body)["terminal"] is True


def test_a_change_of_the_registry_is_a_new_version_and_audited(shop: Any) -> None:
    """With what is new, other or gone; the same registry again changes nothing."""
    first, again = shop.apply(REGISTRY), shop.apply(REGISTRY)
    changed = shop.apply(REGISTRY.replace("  crm: {external: true}\n", "").replace("[failed]", "[broken]"))

    assert (first.changed, again.changed, changed.version) == (True, False, first.version + 1)
    with shop.database.reading() as session:
        entries = session.scalars(
            select(AuditRow).where(AuditRow.action == "catalogue.applied").order_by(AuditRow.sequence)
        ).all()
    *_, added, other = [json.loads(entry.after) for entry in entries]
    assert added["emitters"] == {"added": ["crm", "gateway"]}
    assert added["task_metrics"] == {"added": ["task"]}
    assert (other["emitters"], other["rules"]) == ({"removed": ["crm"]}, {"changed": ["failed"]})
