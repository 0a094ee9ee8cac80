"""Catalogue and snapshot files: what is accepted, and that everything wrong is said with its place."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entitlement_sidecar.domain.catalogue import (
    AfterStale,
    BillingModel,
    Classification,
    Durability,
    FeatureKind,
    Limit,
    WhenUnknown,
)
from entitlement_sidecar.domain.errors import CatalogueError, InvalidInputError
from entitlement_sidecar.domain.registry import TaskMetrics
from entitlement_sidecar.domain.resolve import resolve
from entitlement_sidecar.domain.snapshot import LIVE, SubscriptionState
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.wire.catalogue_file import load_catalogue, parse_catalogue
from entitlement_sidecar.wire.catalogue_schema import schema
from entitlement_sidecar.wire.fields import KEY_FORM, TENANT_FORM, is_key, is_tenant
from entitlement_sidecar.wire.snapshot_file import compile_file, load_snapshot_file, parse_snapshot_file
from support.catalogues import minimal, problems

NOW = datetime(2026, 3, 15, tzinfo=UTC)
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "catalogue.md"
EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "catalogues").glob("*.yaml"))

FULL = """\
catalogue: full
features:
  requests:
    kind: metered
    metric: requests
    title: Requests governed
    deprecated: true
    placement: true
    obligations: {evaluation_required: true}
    outage: {when_unknown: allow, serve_stale_for: 12h, after_stale: deny}
  sso: {kind: boolean}
  packs: {kind: config, outage: {when_unknown: value, value: [a, 1, true]}}
metrics:
  requests:
    domain: api
    unit: request
    window: day
    classification: non_billable
    feature: requests
    durability: buffered
plans:
  starter:
    title: Starter
    price: {amount: 299.10, currency: USD}
    billing_period: month
    billing_model: hybrid
    trial_days: 14
    entitlements:
      requests:
        limits:
          - {amount: 100_000, window: month}
          - {amount: unlimited, window: {unit: week, zone: Europe/Berlin, week_start: sunday}, soft: true}
          - {amount: 5, window: billing_cycle}
      packs: {value: 2}
      sso: true
add_ons:
  more:
    entitlements:
      requests: {limits: [{amount: 10, window: month}, {amount: 1, window: billing_cycle}]}
tenants:
  acme: {plan: starter, add_ons: {more: 3}, since: 2026-01-31T00:00:00+01:00, until: 2026-06-01T00:00:00Z}
  late: {plan: starter, state: suspended}
"""


@pytest.mark.parametrize("amount", ["100_", "1__0", "_1"])
def test_what_only_looks_like_a_number_is_refused_with_its_place(amount: str) -> None:
    """Underscores stand between digits, one at a time."""
    granted = f"{{limits: [{{amount: {amount}, window: month}}]}}"
    found = problems(minimal(feature="{kind: metered, metric: m}", granted=granted))
    assert any(f"'{amount}' is not accepted: expected an integer" in problem for problem in found)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid(path: Path) -> None:
    """What is shipped as an example can be applied as it is."""
    catalogue = load_catalogue(path)
    assert catalogue.name == path.stem
    assert all(metric.feature in catalogue.features for metric in catalogue.metrics.values())


def test_the_reference_page_is_valid() -> None:
    """What the page shows can be copied: its catalogue, and its tenants below it."""
    first, second = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text("utf-8"), re.DOTALL)
    assert parse_catalogue(first, "f").name == "my-product"
    assert set(parse_snapshot_file(first + second, "f").tenants) == {"acme", "globex", "initech"}


def test_the_examples_hold_what_the_sources_ask_for() -> None:
    """Tiers (S2.1), task plans (S3.3), ten metrics in ten domains with a forbidden case each (S0.3, S0.6)."""
    tiers, sales, tasks = (load_catalogue(path) for path in EXAMPLES)

    def amounts(plan: str) -> list[int | None]:
        granted = next(e for e in tiers.plans[plan].entitlements if e.feature == "requests")
        return [limit.amount for limit in granted.limits]

    assert [amounts(plan) for plan in tiers.plans] == [[10_000], [100_000], [1_000_000], []]
    assert [plan.price.amount for plan in tiers.plans.values()] == [0, 299, 999, 4999]
    assert len({metric.domain for metric in sales.metrics.values()}) == 10
    terminal = [metric.key for metric in sales.metrics.values() if metric.terminal]
    ruled = {key for rule in sales.rules for key in rule.metrics} | {
        metric.key
        for metric in sales.metrics.values()
        if any(metric.domain in rule.domains for rule in sales.rules)
    }
    assert (terminal, ruled) == (["case.opened"], sales.metrics.keys() - {"case.opened"})
    assert [emitter.key for emitter in sales.emitters.values() if emitter.external] == ["crm"]
    assert tasks.task_metrics == TaskMetrics("tasks", "input-tokens", "output-tokens", "compute-ms")
    granted = {
        key: next(e for e in plan.entitlements if e.feature == "tasks") for key, plan in tasks.plans.items()
    }
    assert [granted[key].limits[0].amount for key in ("free", "pro", "team")] == [10, 100, 500]


def test_everything_that_can_be_written_is_read() -> None:
    """Each field of the format arrives in the domain, prices exactly."""
    catalogue = parse_snapshot_file(FULL, "f").catalogue
    feature, metric, plan = (
        catalogue.features["requests"],
        catalogue.metrics["requests"],
        catalogue.plans["starter"],
    )
    outage = feature.outage

    assert (feature.kind, feature.title, feature.metric) == (
        FeatureKind.METERED,
        "Requests governed",
        "requests",
    )
    assert (feature.deprecated, feature.placement, feature.obligations.evaluation_required) == (
        True,
        True,
        True,
    )
    assert (outage.when_unknown, outage.serve_stale_for, outage.after_stale) == (
        WhenUnknown.ALLOW,
        43200.0,
        AfterStale.DENY,
    )
    assert catalogue.features["packs"].outage.value == ["a", 1, True]
    assert (metric.window.unit, metric.classification) == (WindowUnit.DAY, Classification.NON_BILLABLE)
    assert metric.durability is Durability.BUFFERED
    assert (plan.price.amount, plan.price.currency) == (Decimal("299.10"), "USD")
    assert str(plan.price.amount) == "299.10"
    assert (plan.billing_model, plan.trial_days, plan.billing_period) == (BillingModel.HYBRID, 14, "month")
    requests, packs, sso = plan.entitlements
    assert requests.limits == (
        Limit(100_000, WindowSpec(WindowUnit.MONTH)),
        Limit(None, WindowSpec(WindowUnit.WEEK, "Europe/Berlin", 7), soft=True),
        Limit(5, WindowSpec(WindowUnit.BILLING_CYCLE)),
    )
    assert (packs.value, sso.enabled) == (2, True)


def test_a_snapshot_file_compiles_to_what_its_tenants_have() -> None:
    """Add-ons count by quantity, billing cycles begin with the tenant, and time ends what ends."""
    document, snapshots = compile_file(parse_snapshot_file(FULL, "f"), NOW, version=4)
    acme = snapshots["acme"]

    resolved = resolve(acme, document.features["requests"], NOW)

    by_unit = {limit.window.unit: limit for limit in resolved.limits}
    since = datetime(2026, 1, 30, 23, tzinfo=UTC)
    assert by_unit[WindowUnit.MONTH].amount == 100_030
    assert by_unit[WindowUnit.BILLING_CYCLE].amount == 8
    assert by_unit[WindowUnit.BILLING_CYCLE].window.anchor == since
    assert (document.version, acme.version, acme.compiled_at) == (4, 4, NOW)
    assert [provenance.id for provenance in resolved.provenance] == ["starter@1", "more"]
    ended = acme.subscriptions[0].phase_at(datetime(2026, 6, 1, tzinfo=UTC))
    assert ended is not None
    assert ended.state is SubscriptionState.ENDED
    late = snapshots["late"].subscriptions[0].phase_at(NOW)
    assert late is not None
    assert late.state not in LIVE


def test_every_problem_is_listed_with_its_place() -> None:
    """One run names them all, in the order of the file."""
    text = minimal(feature="{kind: bolean, titel: T}", granted="{limits: [{amount: -1}]}").replace(
        "month", "fortnight"
    )
    found = problems(text)
    assert [problem.partition(":")[0] for problem in found] == [
        "line 3, column 13",
        "line 3, column 21",
        "line 7, column 21",
        "line 8, column 33",
        "line 8, column 42",
    ]
    assert found[1].endswith(
        "'titel' is not known (did you mean 'title'?); allowed: deprecated, kind, metric, obligations, "
        "outage, placement, title (at features.x.titel)"
    )
    assert found[4].endswith(
        "-1 is not accepted: expected an integer from 0 to 9007199254740991, or unlimited "
        "(at plans.p.entitlements.x.limits[0].amount)"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (minimal(feature="{kind: metered}"), "needs the metric"),
        (minimal(feature="{kind: metered, metric: m}"), "metric 'm' is not known"),
        (minimal(feature="{kind: boolean, metric: m}"), "a boolean feature has no metric"),
        (minimal(granted="{value: 1}"), "a boolean feature has no value"),
        (minimal(granted="{limits: [{amount: 1, window: day}]}"), "a boolean feature has no limits"),
        (minimal(feature="{kind: config}"), "a config feature needs a value"),
        (minimal(more="metrics: {m: {domain: d, unit: u, feature: y}}"), "feature 'y' is not known"),
        (
            minimal(more="metrics: {m: {domain: d, unit: u, window: {unit: day, zone: No/Where}}}"),
            "no IANA zone",
        ),
        (minimal(more="metrics: {m: {domain: d, unit: u, window: {unit: day, zone: ../x}}}"), "no IANA zone"),
        (
            minimal(more="metrics: {m: {domain: d, unit: u, window: {unit: day, week_start: monday}}}"),
            "unit: week",
        ),
        (minimal(more="add_ons: {a: {entitlements: {y: true}}}"), "feature 'y' is not known; allowed: x"),
        (minimal(more="tenants: {t: {plan: q}}"), "plan 'q' is not known"),
        (minimal(more="tenants: {t: {plan: p, add_ons: {a: 1}}}"), "add-on 'a' is not known"),
        (minimal(more="tenants: {t: {plan: p, state: trialing}}"), "a trial needs its end"),
        (minimal(more="tenants: {t: {plan: p, since: 2026-02-30T00:00:00Z}}"), "is no instant"),
        (minimal(more="tenants: {t: {plan: p, since: 2026-02-02T00:00:00}}"), "an RFC 3339 instant"),
        (
            minimal(
                more="tenants: {t: {plan: p, since: 2026-02-02T00:00:00Z, until: 2026-02-02T01:00:00+01:00}}"
            ),
            "later than since",
        ),
        (minimal(more='tenants: {"a b": {plan: p}}'), "1 to 128 letters, digits"),
        (minimal(feature="{kind: [boolean]}"), "a list is not accepted: expected one of boolean, config"),
        (minimal(feature="{kind: boolean, outage: {when_unknown: value, value: 1}}"), "a config feature"),
        (minimal(feature="{kind: config, outage: {value: 1}}"), "only with when_unknown: value"),
        (minimal(feature="{kind: boolean, outage: {serve_stale_for: 1 day}}"), "a duration such as"),
        (minimal().replace('"1.00"', '"1,00"'), "a price such as"),
        (minimal().replace('"1.00"', "1e-12"), "up to 9 decimals"),
        (minimal().replace("EUR", "Euro"), "ISO 4217"),
        (minimal().replace("price: {", "price: {amount: 2, "), "'amount' stands twice"),
        (minimal(granted="1"), "true, false, {value: …}"),
        (minimal(granted="yes"), "true, false, {value: …}"),
        (minimal(granted="!!python/object:os.system {}"), "is not accepted: write plain values"),
        (minimal(feature="{kind: boolean, title: .inf}"), "write a finite one"),
        (minimal(feature=f"{{kind: boolean, title: {'9' * 400}}}"), "too large for a number"),
        (minimal(feature="{kind: boolean, title: [}"), "not YAML"),
        (minimal(feature="{kind: boolean, title: \x07}"), "control character"),
        (minimal(more="---\na: 1"), "one document per file"),
        (minimal(more="? [a]\n: 1"), "a key must be plain text"),
        (minimal(more="nope: *missing"), "alias *missing names nothing"),
        (minimal(more="nope: &self [*self]"), "alias *self names nothing"),
        ("", "nothing is not accepted: expected a mapping with catalogue"),
        ("- 1", "a list is not accepted"),
        ("[" * 100_000, "nested deeper than"),
        ("{a: " * 100_000, "nested deeper than"),
    ],
    ids=range(41),
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    """Each kind of mistake has a message that says what would be right."""
    assert any(said in problem for problem in problems(text)), problems(text)


def test_equal_windows_of_one_kind_may_have_one_limit() -> None:
    """A soft and a hard limit of one window may stand together, two hard ones may not."""
    metered = {"feature": "{kind: metered, metric: m}", "more": "metrics: {m: {domain: d, unit: u}}"}

    def limits(*soft: bool) -> str:
        return ", ".join(f"{{amount: {n}, window: day, soft: {str(s).lower()}}}" for n, s in enumerate(soft))

    assert problems(minimal(granted=f"{{limits: [{limits(True, False)}]}}", **metered)) == []
    (problem,) = problems(minimal(granted=f"{{limits: [{limits(False, False)}]}}", **metered))
    assert "has a limit already" in problem


@pytest.mark.parametrize("again", ["{unit: month}", "{unit: month, zone: UTC}"])
def test_a_window_is_one_however_it_is_written(again: str) -> None:
    """Two limits of it would silently add up."""
    metered = {"feature": "{kind: metered, metric: m}", "more": "metrics: {m: {domain: d, unit: u}}"}
    limits = f"[{{amount: 1, window: month}}, {{amount: 2, window: {again}}}]"
    (problem,) = problems(minimal(granted=f"{{limits: {limits}}}", **metered))
    assert "has a limit already" in problem
    carried = "[{amount: 1, window: {unit: lifetime}, carry_over_cap: 1}]"
    (problem,) = problems(minimal(granted=f"{{limits: {carried}}}", **metered))
    assert "only what ends and is limited carries over" in problem


def test_aliases_may_repeat_but_not_explode() -> None:
    """An anchor saves writing; a document that would grow beyond its bound is refused while it is read."""
    repeated = minimal(more="add_ons:\n  a: &a {entitlements: {x: true}}\n  b: *a")
    assert set(parse_catalogue(repeated, "f").add_ons) == {"a", "b"}

    levels = ["l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 8)]
    (problem,) = problems("\n".join(levels))
    assert "values, aliases included" in problem


def test_names_have_the_forms_of_the_contract() -> None:
    """What a file may name, a call may name, and the other way round."""
    forms = schema()["$defs"]
    assert (forms["key"]["description"], forms["tenantId"]["description"]) == (KEY_FORM, TENANT_FORM)
    for name in ("a", "A", "a" * 64, "a" * 65, "a.b-c_d", "1a", "a@b", "a\n", "é", "", "a/b+c=d:e", "a b"):
        quoted = json.dumps(name)
        add_ons = f"add_ons: {{{quoted}: {{entitlements: {{}}}}}}"
        assert (problems(minimal(more=add_ons)) == []) == is_key(name)
        assert (problems(minimal(more=f"tenants: {{{quoted}: {{plan: p}}}}")) == []) == is_tenant(name)


def test_a_catalogue_has_no_tenants() -> None:
    """Tenants of a plan store are subscribed, not configured."""
    with pytest.raises(CatalogueError, match=r"line 10.*snapshot file"):
        parse_catalogue(minimal(more="\ntenants: {t: {plan: p}}"), "f")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, not text and too large each say so."""
    with pytest.raises(InvalidInputError, match=r"missing.yaml: cannot be read: No such file"):
        load_catalogue(tmp_path / "missing.yaml")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load_catalogue(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_bytes(b"catalogue: c\ntitle: \xff\n")
    with pytest.raises(CatalogueError, match="line 2, column 8: not UTF-8"):
        load_catalogue(path)
    path.write_bytes(b"#" * (8 * 1024 * 1024 + 1))
    with pytest.raises(CatalogueError, match="larger than 8 MiB"):
        load_catalogue(path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """Editors of some systems write one."""
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + minimal().encode())
    assert load_snapshot_file(path).tenants == {}


def read_or_refused(text: str) -> bool:
    """Nothing but a CatalogueError comes out, and each of its problems has a place."""
    try:
        parse_snapshot_file(text, "f")
    except CatalogueError as error:
        return bool(error.problems) and all(p.line >= 1 and p.column >= 1 for p in error.problems)
    return True


@given(st.text(max_size=200) | st.text(alphabet="{}[]:,&*!-? \n\"'ab1|>%@", max_size=80))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    """Whatever the text, never a crash."""
    assert read_or_refused(text)


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_broken_file_is_read_or_refused_with_a_place(data: st.DataObject) -> None:
    """A right file with one piece replaced, never a crash."""
    start = data.draw(st.integers(0, len(FULL)))
    end = data.draw(st.integers(start, min(len(FULL), start + 30)))
    pieces = ["", "{", "[]", "null", "1", "x", ": ", "*a", "-1", "true", '"', "\n", "1e999"]
    assert read_or_refused(FULL[:start] + data.draw(st.sampled_from(pieces)) + FULL[end:])
