"""Every table of the first version.

Revision: 0001, after nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = ("pre",)
depends_on = None

INSTANT = sa.DateTime(timezone=True)
DECIMAL = sa.Numeric().with_variant(sa.String(64), "sqlite")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

TABLES = (
    "catalogues",
    "billing_plans",
    "billing_plan_entitlements",
    "add_ons",
    "organizations",
    "organization_subscriptions",
    "subscription_add_ons",
    "tenant_snapshots",
    "snapshot_outbox",
    "feed_state",
    "redis_feed_state",
    "quota_counters",
    "quota_admissions",
    "usage_events",
    "usage_event_keys",
    "subscription_usage_ledger",
)


def upgrade() -> None:
    _create_catalogues()
    _create_billing_plans()
    _create_billing_plan_entitlements()
    _create_add_ons()
    _create_organizations()
    _create_organization_subscriptions()
    _create_subscription_add_ons()
    _create_tenant_snapshots()
    _create_snapshot_outbox()
    _create_feed_state()
    _create_redis_feed_state()
    _create_quota_counters()
    _create_quota_admissions()
    _create_usage_events()
    _create_usage_event_keys()
    _create_subscription_usage_ledger()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_catalogues() -> None:
    op.create_table(
        "catalogues",
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("feed_shards", sa.Integer(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("applied_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_catalogues"),
    )


def _create_billing_plans() -> None:
    op.create_table(
        "billing_plans",
        sa.Column("id", KEY, nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("price_amount", DECIMAL, nullable=False),
        sa.Column("price_currency", sa.String(), nullable=False),
        sa.Column("billing_period", sa.String(), nullable=False),
        sa.Column("billing_model", sa.Integer(), nullable=False),
        sa.Column("trial_days", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_billing_plans"),
        sa.UniqueConstraint("code", "version", name="uq_billing_plans_code_version"),
    )
    op.create_index(
        "ix_billing_plans_one_active",
        "billing_plans",
        ["code"],
        unique=True,
        postgresql_where=sa.text("active"),
        sqlite_where=sa.text("active"),
    )


def _create_billing_plan_entitlements() -> None:
    op.create_table(
        "billing_plan_entitlements",
        sa.Column("plan_id", KEY, nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("limit_amount", sa.BigInteger(), nullable=True),
        sa.Column("reset_cadence", sa.String(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["plan_id"], ["billing_plans.id"], name="fk_billing_plan_entitlements_plan_id"
        ),
        sa.PrimaryKeyConstraint("plan_id", "feature", name="pk_billing_plan_entitlements"),
    )


def _create_add_ons() -> None:
    op.create_table(
        "add_ons",
        sa.Column("id", KEY, nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_add_ons"),
        sa.UniqueConstraint("code", "version", name="uq_add_ons_code_version"),
    )
    op.create_index(
        "ix_add_ons_one_active",
        "add_ons",
        ["code"],
        unique=True,
        postgresql_where=sa.text("active"),
        sqlite_where=sa.text("active"),
    )


def _create_organizations() -> None:
    op.create_table(
        "organizations",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("snapshot_version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_organizations"),
    )


def _create_organization_subscriptions() -> None:
    op.create_table(
        "organization_subscriptions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("plan_id", KEY, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("auto_renew", sa.Boolean(), nullable=False),
        sa.Column("trial_start", INSTANT, nullable=True),
        sa.Column("trial_end", INSTANT, nullable=True),
        sa.Column("current_period_start", INSTANT, nullable=False),
        sa.Column("current_period_end", INSTANT, nullable=True),
        sa.Column("cancel_at", INSTANT, nullable=True),
        sa.Column("suspended_at", INSTANT, nullable=True),
        sa.Column("anchor", INSTANT, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["plan_id"], ["billing_plans.id"], name="fk_organization_subscriptions_plan_id"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["organizations.tenant_id"], name="fk_organization_subscriptions_tenant_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_organization_subscriptions"),
    )
    op.create_index(
        "ix_organization_subscriptions_tenant_id", "organization_subscriptions", ["tenant_id", "created_at"]
    )


def _create_subscription_add_ons() -> None:
    op.create_table(
        "subscription_add_ons",
        sa.Column("subscription_id", sa.String(), nullable=False),
        sa.Column("add_on_id", KEY, nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.CheckConstraint("quantity > 0", name="ck_subscription_add_ons_quantity_positive"),
        sa.ForeignKeyConstraint(["add_on_id"], ["add_ons.id"], name="fk_subscription_add_ons_add_on_id"),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["organization_subscriptions.id"],
            name="fk_subscription_add_ons_subscription_id",
        ),
        sa.PrimaryKeyConstraint("subscription_id", "add_on_id", name="pk_subscription_add_ons"),
    )


def _create_tenant_snapshots() -> None:
    op.create_table(
        "tenant_snapshots",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("compiled_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["organizations.tenant_id"], name="fk_tenant_snapshots_tenant_id"
        ),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenant_snapshots"),
    )


def _create_snapshot_outbox() -> None:
    op.create_table(
        "snapshot_outbox",
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("compiled_at", INSTANT, nullable=False),
        sa.Column("feed_sequence", sa.BigInteger(), nullable=True),
        sa.Column("published_at", INSTANT, nullable=True),
        sa.CheckConstraint("kind IN ('snapshot', 'catalogue')", name="ck_snapshot_outbox_kind_known"),
        sa.PrimaryKeyConstraint("id", name="pk_snapshot_outbox"),
        sa.UniqueConstraint("feed_sequence", name="uq_snapshot_outbox_feed_sequence"),
    )
    op.create_index(
        "ix_snapshot_outbox_unpublished",
        "snapshot_outbox",
        ["id"],
        postgresql_where=sa.text("published_at IS NULL"),
        sqlite_where=sa.text("published_at IS NULL"),
    )
    op.create_index(
        "ix_snapshot_outbox_unsequenced",
        "snapshot_outbox",
        ["id"],
        postgresql_where=sa.text("feed_sequence IS NULL"),
        sqlite_where=sa.text("feed_sequence IS NULL"),
    )


def _create_feed_state() -> None:
    op.create_table(
        "feed_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name="ck_feed_state_only_one"),
        sa.PrimaryKeyConstraint("id", name="pk_feed_state"),
    )


def _create_redis_feed_state() -> None:
    op.create_table(
        "redis_feed_state",
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("shard", name="pk_redis_feed_state"),
    )


def _create_quota_counters() -> None:
    op.create_table(
        "quota_counters",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("limit_key", sa.String(), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("window_end", INSTANT, nullable=True),
        sa.Column("admitted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unadmitted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("delegated", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("admitted >= 0", name="ck_quota_counters_admitted_not_negative"),
        sa.CheckConstraint("delegated >= 0", name="ck_quota_counters_delegated_not_negative"),
        sa.CheckConstraint("unadmitted >= 0", name="ck_quota_counters_unadmitted_not_negative"),
        sa.PrimaryKeyConstraint(
            "tenant_id", "feature", "limit_key", "window_start", name="pk_quota_counters"
        ),
    )


def _create_quota_admissions() -> None:
    op.create_table(
        "quota_admissions",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("lease_id", sa.String(), nullable=False),
        sa.Column("admitted_at", INSTANT, nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "request_id", name="pk_quota_admissions"),
    )


def _create_usage_events() -> None:
    op.create_table(
        "usage_events",
        sa.Column("id", KEY, nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("occurred_at", INSTANT, nullable=False),
        sa.Column("recorded_at", INSTANT, nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("actor_id", sa.String(), nullable=False),
        sa.Column("correlation_id", sa.String(), nullable=False),
        sa.Column("emitter", sa.String(), nullable=False),
        sa.Column("classification", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.String(), nullable=False),
        sa.Column("instance", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_events"),
    )
    op.create_index("ix_usage_events_tenant_id", "usage_events", ["tenant_id", "id"])
    op.create_index("ix_usage_events_tenant_metric", "usage_events", ["tenant_id", "metric", "occurred_at"])


def _create_usage_event_keys() -> None:
    op.create_table(
        "usage_event_keys",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "event_id", name="pk_usage_event_keys"),
    )


def _create_subscription_usage_ledger() -> None:
    op.create_table(
        "subscription_usage_ledger",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("subscription_id", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("window_kind", sa.String(), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("window_end", INSTANT, nullable=True),
        sa.Column("unit", sa.String(), server_default="", nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("event_count", sa.BigInteger(), nullable=False),
        sa.Column("first_event_at", INSTANT, nullable=False),
        sa.Column("last_event_at", INSTANT, nullable=False),
        sa.Column("classification", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), server_default="open", nullable=False),
        sa.Column("watermark", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id",
            "subscription_id",
            "metric",
            "window_kind",
            "window_start",
            name="pk_subscription_usage_ledger",
        ),
    )
