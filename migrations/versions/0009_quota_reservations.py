"""Quota reservations: amounts that callers hold until they say what they used.

Revision: 0009, after 0008; phase pre. Only adds. A plan store of the version before reserves nothing, counts
what is held as spent, and refuses settlements, which stay with their sidecars and can be replayed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
TABLE = "quota_reservations"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("reservation_id", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.String(), server_default="", nullable=False),
        sa.Column("correlation_id", sa.String(), server_default="", nullable=False),
        sa.Column("shares", sa.JSON(), nullable=False),
        sa.Column("credits", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=True),
        sa.Column("returned", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("overage", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("kept_until", INSTANT, nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint(
            "quantity > 0 AND returned >= 0 AND overage >= 0",
            name=op.f("ck_quota_reservations_amounts_not_negative"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "event_id", name="pk_quota_reservations"),
    )
    op.create_index("ix_quota_reservations_expires_at", TABLE, ["state", "expires_at"])
    op.create_index("ix_quota_reservations_kept_until", TABLE, ["kept_until"])
    op.create_index("ix_quota_reservations_feature", TABLE, ["tenant_id", "feature"])


def downgrade() -> None:
    op.drop_table(TABLE)
