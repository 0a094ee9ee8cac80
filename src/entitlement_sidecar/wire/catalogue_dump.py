"""Writes a catalogue as a file has it, so that reading it gives the same catalogue again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from entitlement_sidecar.domain.catalogue import (
    DEFAULT_PRODUCT,
    DEFAULT_SERVE_STALE_FOR,
    AddOn,
    Catalogue,
    Feature,
    FeatureKind,
    Limit,
    Obligations,
    OutagePolicy,
    Plan,
    PlanEntitlement,
    WhenUnknown,
)
from entitlement_sidecar.domain.window import WindowUnit
from entitlement_sidecar.wire.catalogue_registry import plain_metric, plain_registry
from entitlement_sidecar.wire.catalogue_windows import plain_window
from entitlement_sidecar.wire.durations import write_duration

Plain = dict[str, Any]

_WIDTH = 160
_SHORT = 100
"""Most characters of a mapping or list that is written on one line."""

_PLAIN_TEXT = re.compile(r"[A-Za-z]([A-Za-z0-9 ._/-]*[A-Za-z0-9])?")
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""What some reader of YAML takes for something else than text."""

_KEYED = frozenset({"emitters", "rules"})
"""Parts of the registry whose entries have keys of their own."""

_DEFAULTS: dict[str, Plain] = {
    "feature": {
        "title": "",
        "metric": "",
        "placement": False,
        "deprecated": False,
        "obligations": {},
        "outage": {},
    },
    "outage": {"serve_stale_for": write_duration(DEFAULT_SERVE_STALE_FOR), "after_stale": "last_known"},
    "plan": {
        "billing_model": "subscription",
        "trial_days": 0,
        "active": True,
        "product": DEFAULT_PRODUCT,
    },
    "limit": {"soft": False, "carry_over_cap": 0},
}


def dump_catalogue(catalogue: Catalogue) -> str:
    """A catalogue as YAML that reads as the same catalogue. What is as by default is left out."""
    return yaml.dump(
        plain_catalogue(catalogue),
        Dumper=_Dumper,
        default_flow_style=False,
        sort_keys=False,
        allow_unicode=True,
        width=_WIDTH,
    )


def plain_catalogue(catalogue: Catalogue) -> Plain:
    """A catalogue as plain data in the form of its file."""
    features = catalogue.features
    found: Plain = {
        "catalogue": catalogue.name,
        "features": _Section({key: plain_feature(one) for key, one in features.items()}),
        "metrics": _Section({key: plain_metric(one) for key, one in catalogue.metrics.items()}),
        "plans": _Section({key: plain_plan(one, features) for key, one in catalogue.plans.items()}),
        "add_ons": _Section({key: plain_add_on(one, features) for key, one in catalogue.add_ons.items()}),
    }
    found |= {
        name: _Section(part) if name in _KEYED else part for name, part in plain_registry(catalogue).items()
    }
    return {name: part for name, part in found.items() if part or name not in {"metrics", "add_ons"}}


def plain_feature(feature: Feature, *, complete: bool = False) -> Plain:
    """A feature in the form of a file; `complete` says defaults too."""
    found = {
        "kind": feature.kind.name.lower(),
        "title": feature.title,
        "metric": feature.metric,
        "placement": feature.placement,
        "deprecated": feature.deprecated,
        "obligations": _obligations(feature.obligations, complete=complete),
        "outage": _outage(feature.outage, complete=complete),
    }
    return found if complete else _said(found, "feature")


def plain_plan(plan: Plan, features: dict[str, Feature], *, complete: bool = False) -> Plain:
    """A plan in the form of a file; `features` are those that it may grant."""
    found: Plain = {
        "title": plan.title,
        # Text, so that 299.00 stays 299.00.
        "price": {"amount": _Quoted(format(plan.price.amount, "f")), "currency": plan.price.currency},
        "billing_period": plan.billing_period,
        "billing_model": plan.billing_model.name.lower(),
        "product": plan.product,
        "trial_days": plan.trial_days,
        "active": plan.active,
        "entitlements": _entitlements(plan.entitlements, features, complete=complete),
    }
    if not complete and plan.title == plan.key:
        del found["title"]
    return found if complete else _said(found, "plan")


def plain_add_on(add_on: AddOn, features: dict[str, Feature], *, complete: bool = False) -> Plain:
    """An add-on in the form of a file; `features` are those that it may grant."""
    found: Plain = {
        "title": add_on.title,
        "entitlements": _entitlements(add_on.entitlements, features, complete=complete),
    }
    if not complete and add_on.title == add_on.key:
        del found["title"]
    return found


def plain_entitlement(granted: PlanEntitlement, kind: FeatureKind, *, complete: bool = False) -> bool | Plain:
    """What is granted of a feature of a kind, in the form of a file."""
    found: Plain = {} if granted.enabled else {"enabled": False}
    if granted.value is not None:
        found["value"] = granted.value
    if granted.limits and kind in {FeatureKind.SEATS, FeatureKind.CREDITS}:
        found |= _pool(granted.limits[0], kind.name.lower(), complete=complete)
    elif granted.limits:
        found["limits"] = [_limit(limit, complete=complete) for limit in granted.limits]
    if granted.priority:
        found["priority"] = granted.priority
    if not found or found == {"enabled": False}:
        return granted.enabled
    return found


def _said(found: Plain, what: str) -> Plain:
    missing = object()
    defaults = _DEFAULTS[what]
    return {name: value for name, value in found.items() if defaults.get(name, missing) != value}


def _entitlements(
    granted: tuple[PlanEntitlement, ...], features: dict[str, Feature], *, complete: bool
) -> Plain:
    return {
        one.feature: plain_entitlement(
            one,
            features[one.feature].kind if one.feature in features else FeatureKind.UNKNOWN,
            complete=complete,
        )
        for one in granted
    }


def _obligations(obligations: Obligations, *, complete: bool) -> Plain:
    names = obligations.__struct_fields__
    return {name: value for name in names if (value := getattr(obligations, name)) or complete}


def _outage(outage: OutagePolicy, *, complete: bool) -> Plain:
    found: Plain = {
        "serve_stale_for": write_duration(outage.serve_stale_for),
        "after_stale": outage.after_stale.name.lower(),
    }
    if outage.when_unknown is not None:
        found["when_unknown"] = outage.when_unknown.name.lower()
    if outage.when_unknown is WhenUnknown.ALLOWANCE and outage.allowance_window is not None:
        found["allowance"] = outage.allowance
        found["allowance_window"] = plain_window(outage.allowance_window)
    if outage.value is not None:
        found["value"] = outage.value
    return found if complete else _said(found, "outage")


def _amount(amount: int | None) -> int | str:
    return "unlimited" if amount is None else amount


def _limit(limit: Limit, *, complete: bool) -> Plain:
    found = {
        "amount": _amount(limit.amount),
        "window": plain_window(limit.window),
        "soft": limit.soft,
        "carry_over_cap": limit.carry_over_cap,
    }
    if limit.mode is not None:
        found["mode"] = limit.mode.name.lower()
    if limit.on_holder_loss is not None:
        found["on_holder_loss"] = limit.on_holder_loss.name.lower()
    return found if complete else _said(found, "limit")


def _pool(limit: Limit, name: str, *, complete: bool) -> Plain:
    found: Plain = {name: _amount(limit.amount)}
    if complete or limit.window.unit is not WindowUnit.LIFETIME:
        found["window"] = plain_window(limit.window)
    return found


class _Quoted(str):
    """Text that is written in quotes, so that no reader takes it for a number."""

    __slots__ = ()


class _Section(Plain):
    """A part of the file: each of its entries on a line of its own."""


_Base: Any = yaml.SafeDumper


class _Dumper(_Base):  # type: ignore[misc] # chosen at run time
    """Writes only what every reader of YAML understands alike: no aliases, all but plain words in quotes."""

    def ignore_aliases(self, _: object) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: Any = None) -> Any:  # noqa: ANN401 - PyYAML's
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = _size(_parts(node)) <= _SHORT
        return node

    def represent_sequence(self, tag: str, sequence: Any, flow_style: Any = None) -> Any:  # noqa: ANN401
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = _size(node.value) <= _SHORT
        return node


def _size(nodes: list[Any]) -> int:
    """About how many characters nodes take on one line; many where one of them is written in lines."""
    return sum(_size_of(node) for node in nodes)


def _size_of(node: Any) -> int:  # noqa: ANN401
    if isinstance(node, yaml.ScalarNode):
        return len(node.value) + 3
    if not node.flow_style:
        return _SHORT + 1
    return _size(_parts(node))


def _parts(node: Any) -> list[Any]:  # noqa: ANN401
    return (
        [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    )


def _text(dumper: Any, text: str) -> Any:  # noqa: ANN401 - PyYAML's nodes
    bare = not isinstance(text, _Quoted) and _PLAIN_TEXT.fullmatch(text) and text.lower() not in _NOT_TEXT
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style=None if bare else '"')


def _section(dumper: Any, section: _Section) -> Any:  # noqa: ANN401
    node = dumper.represent_dict(section)
    node.flow_style = not section
    return node


_represent: Callable[..., None] = _Dumper.add_representer
_represent(str, _text)
_represent(_Section, _section)
_represent(_Quoted, _text)
