"""Storage: one file per group of tables, one transaction per unit of work.

    database = Database(create_engine_for("sqlite:////var/lib/entitlements/planstore.db"))
    with database.writing() as session:
        session.add(OrganizationRow(tenant_id="acme", snapshot_version=1, created_at=now))

Rows are named `…Row`, so that they are never taken for the domain's values. Everything here runs on SQLite
and on PostgreSQL; `migrate` brings either to the current schema.
"""

from entitlement_sidecar.planstore.db.access_tables import (
    ApiTokenRow,
    AuditAnchorRow,
    AuditHeadRow,
    AuditRow,
    IdempotencyRow,
)
from entitlement_sidecar.planstore.db.base import Base
from entitlement_sidecar.planstore.db.catalogue_tables import (
    AddOnRow,
    BreakGlassRow,
    CatalogueRow,
    FeatureRow,
    MetricRow,
    PlanEntitlementRow,
    PlanRow,
)
from entitlement_sidecar.planstore.db.engine import create_engine_for
from entitlement_sidecar.planstore.db.quota_tables import (
    ConsumptionRow,
    QuotaAccountRow,
    QuotaAdmissionRow,
    QuotaCounterRow,
    QuotaReservationRow,
    QuotaSeatRow,
)
from entitlement_sidecar.planstore.db.snapshot_tables import (
    FeedStateRow,
    RedisFeedStateRow,
    SnapshotOutboxRow,
    TenantSnapshotRow,
)
from entitlement_sidecar.planstore.db.subscription_tables import (
    CreditGrantRow,
    OrganizationRow,
    OverrideRow,
    SubscriptionAddOnRow,
    SubscriptionHistoryRow,
    SubscriptionRow,
)
from entitlement_sidecar.planstore.db.unit_of_work import Database
from entitlement_sidecar.planstore.db.usage_tables import (
    UsageClassificationRow,
    UsageEventKeyRow,
    UsageEventRow,
    UsageLedgerRow,
    UsageQuarantineRow,
    UsageRetentionRow,
    UsageSinkRow,
    UsageSourceRow,
)

__all__ = [
    "AddOnRow",
    "ApiTokenRow",
    "AuditAnchorRow",
    "AuditHeadRow",
    "AuditRow",
    "Base",
    "BreakGlassRow",
    "CatalogueRow",
    "ConsumptionRow",
    "CreditGrantRow",
    "Database",
    "FeatureRow",
    "FeedStateRow",
    "IdempotencyRow",
    "MetricRow",
    "OrganizationRow",
    "OverrideRow",
    "PlanEntitlementRow",
    "PlanRow",
    "QuotaAccountRow",
    "QuotaAdmissionRow",
    "QuotaCounterRow",
    "QuotaReservationRow",
    "QuotaSeatRow",
    "RedisFeedStateRow",
    "SnapshotOutboxRow",
    "SubscriptionAddOnRow",
    "SubscriptionHistoryRow",
    "SubscriptionRow",
    "TenantSnapshotRow",
    "UsageClassificationRow",
    "UsageEventKeyRow",
    "UsageEventRow",
    "UsageLedgerRow",
    "UsageQuarantineRow",
    "UsageRetentionRow",
    "UsageSinkRow",
    "UsageSourceRow",
    "create_engine_for",
]
