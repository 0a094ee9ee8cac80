"""Rules that the version before 0003 would break: states, plans and limits by CHECK, one open subscription.

Revision: p001, the first of phase post: run it when no plan store of an older version runs any more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "p001"
down_revision = None
branch_labels = ("post",)
depends_on = None

PLANS = {
    "billing_period_known": "billing_period IN ('month', 'year', 'none')",
    "billing_model_known": "billing_model BETWEEN 1 AND 3",
    "trial_days_not_negative": "trial_days >= 0",
    "price_not_negative": "CAST(price_amount AS NUMERIC) >= 0",
    "version_positive": "version >= 1",
}
SUBSCRIPTIONS = {
    "state_known": "state IN ('trialing', 'active', 'past_due', 'cancelled', 'ended')",
    "trial_has_end": "state <> 'trialing' OR trial_end IS NOT NULL",
    "past_due_has_grace": "state <> 'past_due' OR grace_until IS NOT NULL",
    "cancelled_has_instant": "state <> 'cancelled' OR cancel_at IS NOT NULL",
    "open_until_it_ends": "open = (state NOT IN ('cancelled', 'ended'))",
    "next_plan_has_instant": "(next_plan_id IS NULL) = (next_plan_at IS NULL)",
    "period_in_order": "current_period_end > current_period_start",
    "version_positive": "version >= 1",
}


def upgrade() -> None:
    _close_what_was_replaced()
    for table, rules in (("billing_plans", PLANS), ("organization_subscriptions", SUBSCRIPTIONS)):
        with op.batch_alter_table(table) as changing:
            for name, rule in rules.items():
                changing.create_check_constraint(op.f(f"ck_{table}_{name}"), rule)
    with op.batch_alter_table("billing_plan_entitlements") as changing:
        changing.create_check_constraint(
            op.f("ck_billing_plan_entitlements_limit_not_negative"), "limit_amount >= 0"
        )
    op.create_index(
        "ix_organization_subscriptions_one_open",
        "organization_subscriptions",
        ["tenant_id", "product"],
        unique=True,
        postgresql_where=sa.text("open"),
        sqlite_where=sa.text("open"),
    )


def downgrade() -> None:
    op.drop_index("ix_organization_subscriptions_one_open", "organization_subscriptions")
    with op.batch_alter_table("billing_plan_entitlements") as changing:
        changing.drop_constraint(op.f("ck_billing_plan_entitlements_limit_not_negative"), type_="check")
    for table, rules in (("billing_plans", PLANS), ("organization_subscriptions", SUBSCRIPTIONS)):
        with op.batch_alter_table(table) as changing:
            for name in rules:
                changing.drop_constraint(op.f(f"ck_{table}_{name}"), type_="check")


def _close_what_was_replaced() -> None:
    """What time ended stayed as it was stored: where a later subscription follows, it is over."""
    op.execute("UPDATE organization_subscriptions SET open = false WHERE state = 'cancelled'")
    op.execute(
        "UPDATE organization_subscriptions SET open = false, state = 'ended' "
        "WHERE state <> 'cancelled' AND EXISTS (SELECT 1 FROM organization_subscriptions AS later "
        "WHERE later.tenant_id = organization_subscriptions.tenant_id "
        "AND later.product = organization_subscriptions.product "
        "AND (later.created_at, later.id) > "
        "(organization_subscriptions.created_at, organization_subscriptions.id))"
    )
    # Each is looked at once, and says then when it is due.
    op.execute("UPDATE organization_subscriptions SET settle_at = created_at WHERE open")
