"""Features and metrics, subscription history, overrides, credits, tokens, audit, idempotency keys.

Revision: 0003, after 0002; phase pre. Only adds, so that a plan store of the version before goes on beside
it; `p001` adds what that one would break.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

APPEND_ONLY = ("usage_events", "subscription_history", "audit_log", "audit_anchors")

TABLES = (
    "features",
    "metrics",
    "subscription_history",
    "overrides",
    "credit_grants",
    "api_tokens",
    "audit_log",
    "audit_head",
    "audit_anchors",
    "idempotency_keys",
)


def upgrade() -> None:
    _extend_plans()
    _extend_subscriptions()
    op.create_index(
        "ix_subscription_usage_ledger_newest",
        "subscription_usage_ledger",
        ["tenant_id", "window_start", "metric", "window_kind", "subscription_id"],
    )
    _create_registry()
    _create_subscription_history()
    _create_overrides()
    _create_credit_grants()
    _create_api_tokens()
    _create_audit()
    _create_idempotency_keys()
    for table in APPEND_ONLY:
        _make_append_only(table)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("update", "delete"):
            op.execute(f"DROP TRIGGER usage_events_refuse_{change}")
    else:
        op.execute("DROP TRIGGER usage_events_append_only ON usage_events")
    for table in reversed(TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change()")
    op.drop_index("ix_subscription_usage_ledger_newest", "subscription_usage_ledger")
    for index in ("plan_id", "settle_at"):
        op.drop_index(f"ix_organization_subscriptions_{index}", "organization_subscriptions")
    with op.batch_alter_table("organization_subscriptions") as table:
        table.drop_constraint("fk_organization_subscriptions_next_plan_id", type_="foreignkey")
        for column in ("product", "open", "grace_until", "next_plan_id", "next_plan_at", "settle_at"):
            table.drop_column(column)
    op.drop_column("billing_plans", "product")


def _extend_plans() -> None:
    op.add_column(
        "billing_plans", sa.Column("product", sa.String(), server_default="default", nullable=False)
    )


def _extend_subscriptions() -> None:
    with op.batch_alter_table("organization_subscriptions") as table:
        table.add_column(sa.Column("product", sa.String(), server_default="default", nullable=False))
        table.add_column(sa.Column("open", sa.Boolean(), server_default=sa.text("true"), nullable=False))
        table.add_column(sa.Column("grace_until", INSTANT, nullable=True))
        table.add_column(sa.Column("next_plan_id", KEY, nullable=True))
        table.add_column(sa.Column("next_plan_at", INSTANT, nullable=True))
        table.add_column(sa.Column("settle_at", INSTANT, nullable=True))
        table.create_foreign_key(
            "fk_organization_subscriptions_next_plan_id", "billing_plans", ["next_plan_id"], ["id"]
        )
    op.create_index("ix_organization_subscriptions_plan_id", "organization_subscriptions", ["plan_id"])
    op.create_index(
        "ix_organization_subscriptions_settle_at",
        "organization_subscriptions",
        ["settle_at"],
        postgresql_where=sa.text("settle_at IS NOT NULL"),
        sqlite_where=sa.text("settle_at IS NOT NULL"),
    )


def _create_registry() -> None:
    op.create_table(
        "features",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("catalogue_version", sa.BigInteger(), nullable=False),
        sa.Column("retired", sa.Boolean(), nullable=False),
        sa.CheckConstraint("kind BETWEEN 1 AND 5", name=op.f("ck_features_kind_known")),
        sa.PrimaryKeyConstraint("key", name="pk_features"),
    )
    op.create_table(
        "metrics",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("domain", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("aggregation", sa.Integer(), nullable=False),
        sa.Column("classification", sa.Integer(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("catalogue_version", sa.BigInteger(), nullable=False),
        sa.Column("retired", sa.Boolean(), nullable=False),
        sa.CheckConstraint("aggregation BETWEEN 1 AND 4", name=op.f("ck_metrics_aggregation_known")),
        sa.CheckConstraint("classification BETWEEN 1 AND 3", name=op.f("ck_metrics_classification_known")),
        sa.PrimaryKeyConstraint("key", name="pk_metrics"),
    )


def _create_subscription_history() -> None:
    op.create_table(
        "subscription_history",
        sa.Column("id", KEY, nullable=False),
        sa.Column("subscription_id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("plan", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["organization_subscriptions.id"],
            name="fk_subscription_history_subscription_id",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_subscription_history"),
        sa.UniqueConstraint(
            "subscription_id", "version", name="uq_subscription_history_subscription_id_version"
        ),
    )
    op.create_index("ix_subscription_history_tenant_id", "subscription_history", ["tenant_id", "id"])


def _create_overrides() -> None:
    op.create_table(
        "overrides",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("effect", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("until", INSTANT, nullable=True),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.CheckConstraint("effect IN ('deny', 'set', 'add')", name=op.f("ck_overrides_effect_known")),
        sa.CheckConstraint("until > since", name=op.f("ck_overrides_interval_in_order")),
        sa.ForeignKeyConstraint(["tenant_id"], ["organizations.tenant_id"], name="fk_overrides_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_overrides"),
    )
    op.create_index("ix_overrides_tenant_id", "overrides", ["tenant_id", "id"])


def _create_credit_grants() -> None:
    op.create_table(
        "credit_grants",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("until", INSTANT, nullable=True),
        sa.Column("voided_at", INSTANT, nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_credit_grants_amount_positive")),
        sa.CheckConstraint("until > since", name=op.f("ck_credit_grants_interval_in_order")),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["organizations.tenant_id"], name="fk_credit_grants_tenant_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_credit_grants"),
    )
    op.create_index("ix_credit_grants_tenant_id", "credit_grants", ["tenant_id", "id"])


def _create_api_tokens() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("tenants", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("last_used_at", INSTANT, nullable=True),
        sa.CheckConstraint(
            "role IN ('viewer', 'operator', 'billing-admin', 'sidecar', 'emitter', 'ai-agent')",
            name=op.f("ck_api_tokens_role_known"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_api_tokens"),
        sa.UniqueConstraint("hash", name="uq_api_tokens_hash"),
    )


def _create_audit() -> None:
    op.create_table(
        "audit_log",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("resource", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_log"),
    )
    op.create_index("ix_audit_log_tenant_id", "audit_log", ["tenant_id", "sequence"])
    for columns in (["resource", "sequence"], ["actor", "sequence"], ["action", "sequence"], ["at"]):
        op.create_index(f"ix_audit_log_{columns[0]}", "audit_log", columns)
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_head_only_one")),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.create_table(
        "audit_anchors",
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("anchored_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("day", name="pk_audit_anchors"),
    )


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("principal", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("principal", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def _make_append_only(table: str) -> None:
    """The database itself refuses to change or remove a row, whoever asks."""
    if op.get_bind().dialect.name == "sqlite":
        for change in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER {table}_refuse_{change} BEFORE {change.upper()} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
