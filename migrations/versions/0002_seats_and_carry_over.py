"""Seats, what a window carries over, and first answers to consumptions.

Revision: 0002, after 0001. Only adds, so that a plan store of the version before goes on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("quota_counters", sa.Column("carried", sa.BigInteger(), nullable=True))
    op.create_table(
        "quota_seats",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("limit_key", sa.String(), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("taken_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "feature", "limit_key", "window_start", "subject", name="pk_quota_seats"
        ),
    )
    op.create_table(
        "consumptions",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("answered_at", INSTANT, nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "event_id", name="pk_consumptions"),
    )


def downgrade() -> None:
    op.drop_table("consumptions")
    op.drop_table("quota_seats")
    with op.batch_alter_table("quota_counters") as table:
        table.drop_column("carried")
