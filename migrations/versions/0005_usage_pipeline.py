"""The usage pipeline: what an event is classified as, quarantine, sources, sinks, retention.

Revision: 0005, after 0004; phase pre. What a window's events add up to is kept per classification from here
on, which changes the key of `subscription_usage_ledger`: end plan stores of an older version first. No
version that was released has the older key.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LEDGER = "subscription_usage_ledger"
LEDGER_KEY = ["tenant_id", "subscription_id", "metric", "window_kind", "window_start"]

EVENT_COLUMNS = {
    "rule": (sa.String(), ""),
    "registry_version": (sa.BigInteger(), "0"),
    "count": (sa.BigInteger(), "1"),
    "corrects": (sa.String(), ""),
    "voids": (sa.Boolean(), sa.text("false")),
    "dimensions": (sa.JSON(), "{}"),
}


def upgrade() -> None:
    for name, (kind, default) in EVENT_COLUMNS.items():
        op.add_column("usage_events", sa.Column(name, kind, server_default=default, nullable=False))
    op.create_index("ix_usage_events_tenant_correlation", "usage_events", ["tenant_id", "correlation_id"])
    op.create_index(
        "ix_usage_events_corrections",
        "usage_events",
        ["tenant_id", "corrects"],
        postgresql_where=sa.text("corrects <> ''"),
        sqlite_where=sa.text("corrects <> ''"),
    )
    _key_of_ledger([*LEDGER_KEY, "classification"])
    _create_classifications()
    _create_quarantine()
    _create_sources()
    op.create_table(
        "usage_sinks",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("cursor", sa.String(), nullable=False),
        sa.Column("events", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_usage_sinks"),
    )
    op.create_table(
        "usage_retention",
        sa.Column("classification", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("removed_before", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("classification", name="pk_usage_retention"),
    )


def downgrade() -> None:
    for table in (
        "usage_retention",
        "usage_sinks",
        "usage_sources",
        "usage_quarantine",
        "usage_classifications",
    ):
        op.drop_table(table)
    _key_of_ledger(LEDGER_KEY)
    op.drop_index("ix_usage_events_corrections", "usage_events")
    op.drop_index("ix_usage_events_tenant_correlation", "usage_events")
    for name in reversed(EVENT_COLUMNS):
        op.drop_column("usage_events", name)


def _key_of_ledger(columns: list[str]) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(f"pk_{LEDGER}", LEDGER, type_="primary")
        op.create_primary_key(f"pk_{LEDGER}", LEDGER, columns)
        return
    with op.batch_alter_table(LEDGER) as table:
        table.drop_constraint(f"pk_{LEDGER}", type_="primary")
        table.create_primary_key(f"pk_{LEDGER}", columns)


def _create_classifications() -> None:
    op.create_table(
        "usage_classifications",
        sa.Column("id", KEY, nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("classification", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("registry_version", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("recorded_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_classifications"),
    )
    op.create_index("ix_usage_classifications_event", "usage_classifications", ["tenant_id", "event_id"])
    _make_append_only("usage_classifications")


def _create_quarantine() -> None:
    op.create_table(
        "usage_quarantine",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("emitter", sa.String(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("registry_version", sa.BigInteger(), nullable=False),
        sa.Column("occurred_at", INSTANT, nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("instance", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(), server_default="held", nullable=False),
        sa.Column("resolved_at", INSTANT, nullable=True),
        sa.Column("resolved_by", sa.String(), server_default="", nullable=False),
        sa.CheckConstraint(
            "state IN ('held', 'released', 'discarded')", name=op.f("ck_usage_quarantine_state_known")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "event_id", name="pk_usage_quarantine"),
    )
    op.create_index("ix_usage_quarantine_held", "usage_quarantine", ["state", "received_at"])


def _create_sources() -> None:
    totals = (
        "accepted_total",
        "dead_total",
        "stored",
        "duplicates",
        "conflicts",
        "quarantined",
        "refused",
        "declared",
    )
    op.create_table(
        "usage_sources",
        sa.Column("instance", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in totals),
        sa.Column("received", sa.Text(), server_default="[]", nullable=False),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.Column("last_seen_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("instance", "epoch", name="pk_usage_sources"),
    )


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
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
