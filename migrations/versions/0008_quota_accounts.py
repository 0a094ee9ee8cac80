"""Quota accounts: what each holder of a lease, and each block in Redis, was granted of a feature's limits.

Revision: 0008, after 0006; phase pre. Only adds. A plan store of the version before it grants no leases, and
counts what is delegated as spent.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
TOTALS = ("granted", "used", "returned", "reclaimed", "sequence")


def upgrade() -> None:
    # Without a CHECK of its own: SQLite would copy the whole table for it.
    op.add_column(
        "quota_counters", sa.Column("forfeited", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.create_table(
        "quota_accounts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("places", sa.JSON(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in TOTALS),
        sa.Column("opened_at", INSTANT, nullable=False),
        sa.Column("starts_at", INSTANT, nullable=False),
        sa.Column("ends_at", INSTANT, nullable=True),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("closed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("on_loss", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(), server_default="", nullable=False),
        sa.Column("parent", sa.String(), server_default="", nullable=False),
        sa.CheckConstraint(
            "used >= 0 AND returned >= 0 AND reclaimed >= 0 AND (used + returned <= granted OR parent <> '')",
            name=op.f("ck_quota_accounts_within_what_was_granted"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_quota_accounts"),
    )
    op.create_index(
        "ix_quota_accounts_tenant_id_feature", "quota_accounts", ["tenant_id", "feature", "closed"]
    )
    op.create_index("ix_quota_accounts_parent", "quota_accounts", ["parent"])
    op.create_index("ix_quota_accounts_expires_at", "quota_accounts", ["closed", "expires_at"])


def downgrade() -> None:
    op.drop_table("quota_accounts")
    op.drop_column("quota_counters", "forfeited")
