"""Builds the domain's catalogue from a document in which nothing is wrong."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from entitlement_sidecar.domain.catalogue import (
    DEFAULT_PRODUCT,
    DEFAULT_SERVE_STALE_FOR,
    AddOn,
    AfterStale,
    BillingModel,
    Catalogue,
    Feature,
    FeatureKind,
    Limit,
    LimitMode,
    Obligations,
    OutagePolicy,
    Plan,
    PlanEntitlement,
    Price,
    WhenUnknown,
)
from entitlement_sidecar.domain.lease import OnHolderLoss
from entitlement_sidecar.wire.catalogue_registry import build_metric, build_registry
from entitlement_sidecar.wire.catalogue_windows import build_window
from entitlement_sidecar.wire.durations import parse_duration
from entitlement_sidecar.wire.yaml_source import Path, YamlDocument


def build_catalogue(document: YamlDocument) -> Catalogue:
    """The catalogue of a document that has passed every check."""
    data = document.data
    return Catalogue(
        name=data["catalogue"],
        features={key: _feature(key, raw) for key, raw in data["features"].items()},
        metrics={key: build_metric(key, raw) for key, raw in data.get("metrics", {}).items()},
        plans={key: _plan(key, raw, document) for key, raw in data["plans"].items()},
        add_ons={key: _add_on(key, raw) for key, raw in data.get("add_ons", {}).items()},
        **build_registry(data),
    )


def _feature(key: str, raw: dict[str, Any]) -> Feature:
    return Feature(
        key=key,
        kind=FeatureKind[raw["kind"].upper()],
        title=raw.get("title", ""),
        metric=raw.get("metric", ""),
        placement=raw.get("placement", False),
        deprecated=raw.get("deprecated", False),
        obligations=Obligations(**raw.get("obligations", {})),
        outage=_outage(raw.get("outage", {})),
    )


def _outage(raw: dict[str, Any]) -> OutagePolicy:
    chosen = raw.get("when_unknown")
    stale = raw.get("serve_stale_for")
    return OutagePolicy(
        serve_stale_for=DEFAULT_SERVE_STALE_FOR if stale is None else parse_duration(stale),
        after_stale=AfterStale[raw.get("after_stale", "last_known").upper()],
        when_unknown=WhenUnknown[chosen.upper()] if chosen else None,
        allowance=raw.get("allowance", 0),
        allowance_window=build_window(raw["allowance_window"]) if "allowance_window" in raw else None,
        value=raw.get("value"),
    )


def _plan(key: str, raw: dict[str, Any], document: YamlDocument) -> Plan:
    return Plan(
        key=key,
        title=raw.get("title", key),
        price=_price(raw["price"], ("plans", key, "price", "amount"), document),
        billing_period=raw["billing_period"],
        entitlements=_entitlements(raw["entitlements"]),
        billing_model=BillingModel[raw.get("billing_model", "subscription").upper()],
        trial_days=raw.get("trial_days", 0),
        active=raw.get("active", True),
        product=raw.get("product", DEFAULT_PRODUCT),
    )


def _price(raw: dict[str, Any], path: Path, document: YamlDocument) -> Price:
    # A price written without quotes is exact too: what counts is the text, not the float it was read as.
    return Price(Decimal(document.texts.get(path, raw["amount"])), raw["currency"])


def _add_on(key: str, raw: dict[str, Any]) -> AddOn:
    return AddOn(key, raw.get("title", key), _entitlements(raw["entitlements"]))


def _entitlements(raw: dict[str, Any]) -> tuple[PlanEntitlement, ...]:
    return tuple(build_entitlement(feature, granted) for feature, granted in raw.items())


def build_entitlement(feature: str, granted: Any) -> PlanEntitlement:  # noqa: ANN401 - a boolean or a mapping
    """What is granted of a feature, as plans, add-ons and overrides write it."""
    if isinstance(granted, bool):
        return PlanEntitlement(feature, enabled=granted)
    return PlanEntitlement(
        feature,
        enabled=granted.get("enabled", True),
        value=granted.get("value"),
        limits=_limits(granted),
        priority=granted.get("priority", 0),
    )


def _limits(granted: dict[str, Any]) -> tuple[Limit, ...]:
    for name in ("seats", "credits"):
        if name in granted:
            return (Limit(_amount(granted[name]), build_window(granted.get("window", "lifetime"))),)
    return tuple(_limit(limit) for limit in granted.get("limits", ()))


def _amount(raw: int | str) -> int | None:
    return None if isinstance(raw, str) else raw


def _limit(raw: dict[str, Any]) -> Limit:
    return Limit(
        amount=_amount(raw["amount"]),
        window=build_window(raw["window"]),
        soft=raw.get("soft", False),
        carry_over_cap=raw.get("carry_over_cap", 0),
        mode=LimitMode[raw["mode"].upper()] if "mode" in raw else None,
        on_holder_loss=OnHolderLoss[raw["on_holder_loss"].upper()] if "on_holder_loss" in raw else None,
    )
