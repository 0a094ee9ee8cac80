"""What a business sells, as configuration (S1.2): features, metrics, plans and add-ons.

A `Catalogue` is what people write and operators apply. The `CatalogueDocument` is the part of it that
belongs to no tenant and travels to sidecars: features, outage policies and the metric registry.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any

import msgspec

from entitlement_sidecar.domain.break_glass import BreakGlass
from entitlement_sidecar.domain.lease import OnHolderLoss
from entitlement_sidecar.domain.registry import (
    DEFAULT_CLOSE_AFTER,
    DEFAULT_MAX_AGE,
    DEFAULT_MAX_FUTURE,
    AfterClose,
    Emitter,
    Granularity,
    Retention,
    TaskMetrics,
    UsageRule,
    WhenFull,
)
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit

DEFAULT_SERVE_STALE_FOR = 24 * 3600.0
"""Seconds that a held snapshot is served as held when nothing confirms it (DESIGN 6)."""

DEFAULT_PRODUCT = "default"
"""The product of plans that name none."""

MAX_QUANTITY = 2**53 - 1
"""Largest quantity: exact in int64, in JSON and in JavaScript."""


class FeatureKind(IntEnum):
    """What kind of thing a feature is. Values are those of the contract."""

    UNKNOWN = 0
    BOOLEAN = 1
    CONFIG = 2
    METERED = 3
    SEATS = 4
    CREDITS = 5


COUNTED = frozenset({FeatureKind.METERED, FeatureKind.SEATS, FeatureKind.CREDITS})
"""Kinds with limits: an authority counts what is used of them."""


class Aggregation(IntEnum):
    """How events of a metric become one number."""

    SUM = 1
    MAX = 2
    LAST = 3
    UNIQUE_COUNT = 4


class Classification(IntEnum):
    """What usage means commercially (S0.4). The registry decides, never the caller."""

    BILLABLE = 1
    NON_BILLABLE = 2
    INFORMATIONAL = 3


class Durability(IntEnum):
    """What "accepted" survives: DURABLE a power cut, BUFFERED a killed process."""

    DURABLE = 1
    BUFFERED = 2


class WhenUnknown(IntEnum):
    """What to answer when nothing is held for a tenant and no source can be asked."""

    ALLOW = 1
    DENY = 2
    ALLOWANCE = 3
    VALUE = 4


class AfterStale(IntEnum):
    """What to answer from a snapshot older than `serve_stale_for`."""

    LAST_KNOWN = 1
    DENY = 2


class LimitMode(IntEnum):
    """Who admits what is used of a limit, and from what they know. `domain.modes` says which one counts."""

    STRICT = 1
    LEASED = 2
    LOCAL_DENY = 3
    OPTIMISTIC = 4


class Obligations(msgspec.Struct, frozen=True, gc=False):
    """What the caller has to do besides obeying the answer (S4.6)."""

    evaluation_required: bool = False
    governance_required: bool = False


class OutagePolicy(msgspec.Struct, frozen=True, gc=False):
    """How a feature answers when something behind the sidecar is away (DESIGN 6).

    `when_unknown` None means the default of the feature's kind. `serve_stale_for` is in seconds.
    """

    serve_stale_for: float = DEFAULT_SERVE_STALE_FOR
    after_stale: AfterStale = AfterStale.LAST_KNOWN
    when_unknown: WhenUnknown | None = None
    allowance: int = 0
    allowance_window: WindowSpec | None = None
    value: Any = None


class Feature(msgspec.Struct, frozen=True, gc=False):
    """What is checked. `metric` names what its usage adds up to (metered, credits).

    `understood` False: a newer plan store says something of it that this version has no name for.
    """

    key: str
    kind: FeatureKind
    title: str = ""
    metric: str = ""
    placement: bool = False
    deprecated: bool = False
    obligations: Obligations = Obligations()
    outage: OutagePolicy = OutagePolicy()
    understood: bool = True


class Metric(msgspec.Struct, frozen=True, gc=False):
    """What usage events add up to (S0.3).

    `terminal`: an event of it ends its correlation id (S0.9). `counts_to_quota`: also what is not billable
    does. `max_age` and `max_future` bound, in seconds, when an event may have happened before and after it
    was recorded. A window is closed `close_after` seconds after its end.
    """

    key: str
    domain: str
    unit: str
    aggregation: Aggregation = Aggregation.SUM
    window: WindowSpec = WindowSpec(WindowUnit.MONTH)
    classification: Classification = Classification.BILLABLE
    feature: str = ""
    durability: Durability = Durability.DURABLE
    granularity: Granularity = Granularity.EVENT
    terminal: bool = False
    counts_to_quota: bool = False
    when_full: WhenFull = WhenFull.REFUSE
    max_age: float = DEFAULT_MAX_AGE
    max_future: float = DEFAULT_MAX_FUTURE
    close_after: float = DEFAULT_CLOSE_AFTER
    after_close: AfterClose = AfterClose.ADJUST


class Limit(msgspec.Struct, frozen=True, gc=False):
    """An amount per window. `amount` None is unlimited; 0 is legal and means never.

    Of seats it is how many subjects; a lifetime window is one in which they stay until they are released. Of
    credits it is how many there are to burn, once (lifetime) or anew in each window. `before` is what the
    tenant had of it when the window before this one ended, where it resolves and may carry over.

    `mode` and `on_holder_loss` None: nobody said, so they are those of the same limit elsewhere (of the plan,
    where an override sets only the amount), and else as by default; `domain.modes` says what that is.
    """

    amount: int | None
    window: WindowSpec
    soft: bool = False
    carry_over_cap: int = 0
    overage_price: str = ""
    before: int | None = None
    mode: LimitMode | None = None
    on_holder_loss: OnHolderLoss | None = None

    @property
    def key(self) -> str:
        """Names the limit inside its entitlement, and the authority's row."""
        return f"{self.window.key}:soft" if self.soft else self.window.key

    def bought(self, quantity: int, anchor: datetime | None) -> Limit:
        """The limit that a subscription has of it: multiplied, and billing cycles counted from its anchor."""
        window = self.window
        if window.unit is WindowUnit.BILLING_CYCLE and window.anchor is None:
            window = msgspec.structs.replace(window, anchor=anchor)
        return msgspec.structs.replace(
            self,
            amount=None if self.amount is None else min(self.amount * quantity, MAX_QUANTITY),
            window=window,
            carry_over_cap=min(self.carry_over_cap * quantity, MAX_QUANTITY),
        )


class PlanEntitlement(msgspec.Struct, frozen=True, gc=False):
    """A plan's or add-on's grant of one feature; which field applies depends on the feature's kind.

    Of metered features, seats and credits: without limits it is unlimited. `priority` as in a `Grant`.
    """

    feature: str
    enabled: bool = True
    value: Any = None
    limits: tuple[Limit, ...] = ()
    priority: int = 0


class Price(msgspec.Struct, frozen=True, gc=False):
    """An exact amount of a currency (ISO 4217)."""

    amount: Decimal
    currency: str


class BillingModel(IntEnum):
    """What a plan charges for (S1.2)."""

    SUBSCRIPTION = 1
    USAGE = 2
    HYBRID = 3


class Plan(msgspec.Struct, frozen=True, gc=False):
    """What tenants subscribe to (S4.1). `billing_period` is `month`, `year` or `none`.

    A tenant has one open subscription of each `product` at most.
    """

    key: str
    title: str
    price: Price
    billing_period: str
    entitlements: tuple[PlanEntitlement, ...]
    billing_model: BillingModel = BillingModel.SUBSCRIPTION
    trial_days: int = 0
    active: bool = True
    product: str = DEFAULT_PRODUCT


class AddOn(msgspec.Struct, frozen=True, gc=False):
    """Something bought on top of a plan, any number of times."""

    key: str
    title: str
    entitlements: tuple[PlanEntitlement, ...]


class Catalogue(msgspec.Struct, frozen=True, gc=False):
    """Everything that a business sells, keyed by name. `rules` are in the order in which they are tried."""

    name: str
    features: dict[str, Feature]
    metrics: dict[str, Metric]
    plans: dict[str, Plan]
    add_ons: dict[str, AddOn]
    emitters: dict[str, Emitter] = {}
    rules: tuple[UsageRule, ...] = ()
    task_metrics: TaskMetrics = TaskMetrics()
    retention: Retention = Retention()

    def document(
        self, version: int, feed_shards: int = 1, break_glass: tuple[BreakGlass, ...] = ()
    ) -> CatalogueDocument:
        """The part of it that belongs to no tenant, as one version of it travels."""
        return CatalogueDocument(
            version=version,
            features=self.features,
            metrics=self.metrics,
            feed_shards=feed_shards,
            break_glass=break_glass,
            emitters=self.emitters,
            rules=self.rules,
            task_metrics=self.task_metrics,
        )


class CatalogueDocument(msgspec.Struct, frozen=True, gc=False):
    """What belongs to no tenant, as sidecars hold it. Without `emitters` everyone may report usage."""

    version: int
    features: dict[str, Feature]
    metrics: dict[str, Metric]
    feed_shards: int = 1
    break_glass: tuple[BreakGlass, ...] = ()
    emitters: dict[str, Emitter] = {}
    rules: tuple[UsageRule, ...] = ()
    task_metrics: TaskMetrics = TaskMetrics()

    def metric_of(self, feature: Feature) -> Metric | None:
        """The metric that a feature's consumption is recorded under."""
        return self.metrics.get(feature.metric)
