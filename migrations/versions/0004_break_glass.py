"""Break-glass: emergency measures of operators, and what each catalogue's document says of them.

Revision: 0004, after 0003; phase pre. Only adds. A plan store of the version before that applies a catalogue
publishes it without them; one of this version puts them back within seconds.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("catalogues", sa.Column("break_glass", sa.Text(), server_default="[]", nullable=False))
    op.create_table(
        "break_glass",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("until", INSTANT, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("ended_by", sa.String(), nullable=False),
        sa.CheckConstraint("action IN ('open', 'freeze')", name=op.f("ck_break_glass_action_known")),
        sa.CheckConstraint(
            "(action = 'open') = (feature <> '')", name=op.f("ck_break_glass_opens_a_feature")
        ),
        sa.CheckConstraint("until > since", name=op.f("ck_break_glass_interval_in_order")),
        sa.PrimaryKeyConstraint("id", name="pk_break_glass"),
    )
    op.create_index("ix_break_glass_until", "break_glass", ["until"])


def downgrade() -> None:
    op.drop_table("break_glass")
    op.drop_column("catalogues", "break_glass")
