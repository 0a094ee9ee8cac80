"""Usage events: the aggregate that each belongs to, and on PostgreSQL a partition for each month.

Revision: 0006, after 0005; phase pre. On PostgreSQL `usage_events` is copied into its partitions: it takes as
long as there are events, and batches wait meanwhile.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
EVENTS = "usage_events"
BEFORE = "usage_events_before"
BEGINNING = {"postgresql": "1970-01-01 00:00:00+00", "sqlite": "1970-01-01 00:00:00.000000"}

SLOT = ("subscription_id", "window_kind", "window_start")

INDEXES = {
    "ix_usage_events_tenant_id": "(tenant_id, id)",
    "ix_usage_events_tenant_metric": "(tenant_id, metric, occurred_at)",
    "ix_usage_events_tenant_correlation": "(tenant_id, correlation_id)",
    "ix_usage_events_corrections": "(tenant_id, corrects) WHERE corrects <> ''",
    "ix_usage_events_event": "(tenant_id, event_id)",
    "ix_usage_events_occurred": "USING brin (occurred_at)",
}

# Which aggregate counted it: the one of its metric whose window it happened in.
PLACED = """
    {target} = coalesce((
        SELECT l.{column} FROM subscription_usage_ledger l
        WHERE l.tenant_id = {events}.tenant_id AND l.metric = {events}.metric
          AND l.window_start <= {events}.occurred_at
          AND (l.window_end IS NULL OR l.window_end > {events}.occurred_at)
        ORDER BY l.subscription_id DESC, l.window_kind LIMIT 1), {target})
"""

MAKE_MONTHS = """
CREATE FUNCTION usage_events_make_months(first date, months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, {schema}, pg_temp
SET entitlements.usage_events = 'moving' AS $$
DECLARE
    start timestamptz; until timestamptz; name text; made integer := 0;
BEGIN
    IF months < 0 OR months > 120 THEN
        RAISE EXCEPTION 'usage_events_make_months: expected 0 to 120 months, got %', months;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('usage_events_make_months', 0));
    FOR n IN 0 .. months - 1 LOOP
        start := (date_trunc('month', first::timestamp) + make_interval(months => n)) AT TIME ZONE 'UTC';
        until := (date_trunc('month', first::timestamp) + make_interval(months => n + 1)) AT TIME ZONE 'UTC';
        name := 'usage_events_' || to_char(start AT TIME ZONE 'UTC', 'YYYY_MM');
        CONTINUE WHEN to_regclass(format('%I.%I', {schema_text}, name)) IS NOT NULL;
        EXECUTE format('CREATE TABLE {schema}.%I (LIKE {schema}.usage_events INCLUDING DEFAULTS)', name);
        -- What came before its month had a partition; nobody adds more until this is done.
        LOCK TABLE ONLY {schema}.usage_events_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format(
            'WITH moved AS (DELETE FROM {schema}.usage_events_default '
            'WHERE occurred_at >= %L AND occurred_at < %L RETURNING *) '
            'INSERT INTO {schema}.%I SELECT * FROM moved', start, until, name);
        EXECUTE format(
            'ALTER TABLE {schema}.usage_events ATTACH PARTITION {schema}.%I FOR VALUES FROM (%L) TO (%L)',
            name, start, until);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$
"""

REMOVE = """
CREATE FUNCTION usage_events_remove(
    removed_class integer, since timestamptz, until timestamptz, ended_before timestamptz
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, {schema}, pg_temp
SET entitlements.usage_events = 'removing' AS $$
DECLARE
    removed bigint;
BEGIN
    IF until > clock_timestamp() - interval '1 day' OR ended_before > clock_timestamp() THEN
        RAISE EXCEPTION 'usage_events_remove: events of the last day are kept';
    END IF;
    DELETE FROM {schema}.usage_events e
    WHERE e.occurred_at >= since AND e.occurred_at < until
      AND e.window_end < ended_before
      AND coalesce((
            SELECT c.classification FROM {schema}.usage_classifications c
            WHERE c.tenant_id = e.tenant_id
              AND c.event_id = CASE WHEN e.corrects = '' THEN e.event_id ELSE e.corrects END
            ORDER BY c.id DESC LIMIT 1), e.classification) = removed_class;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$
"""

DROP_EMPTY = """
CREATE FUNCTION usage_events_drop_empty_months(before date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, {schema}, pg_temp AS $$
DECLARE
    name text; held boolean; dropped integer := 0;
BEGIN
    IF before > current_date - 31 THEN
        RAISE EXCEPTION 'usage_events_drop_empty_months: months that may still be used are kept';
    END IF;
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = '{schema}.usage_events'::regclass
          AND c.relname ~ '^usage_events_[0-9]{{4}}_[0-9]{{2}}$'
          AND c.relname < 'usage_events_' || to_char(before, 'YYYY_MM')
    LOOP
        EXECUTE format('LOCK TABLE ONLY {schema}.%I IN ACCESS EXCLUSIVE MODE', name);
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM {schema}.%I)', name) INTO held;
        CONTINUE WHEN held;
        EXECUTE format('DROP TABLE {schema}.%I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$
"""

# From the month of the first event, of the last ten years, to three months ahead.
MAKE_FIRST_MONTHS = """
WITH oldest AS (SELECT greatest(coalesce((OLDEST), now()), now() - interval '9 years') AS at),
bounds AS (
    SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AS this,
           date_trunc('month', at AT TIME ZONE 'UTC') AS first FROM oldest),
since AS (SELECT this, least(first, this - interval '2 months') AS first FROM bounds)
SELECT usage_events_make_months(
    first::date,
    (extract(year FROM age(this, first)) * 12 + extract(month FROM age(this, first)))::integer + 4
) FROM since
"""

# A setting alone opens nothing: it has to be the owner of the tables, as which the functions run.
REFUSE = """
CREATE FUNCTION usage_events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('entitlements.usage_events', true) IN ('moving', 'removing')
       AND current_user = (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = TG_RELID) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'usage_events is append-only';
END $$
"""

FUNCTIONS = {
    "usage_events_make_months": "(date, integer)",
    "usage_events_remove": "(integer, timestamptz, timestamptz, timestamptz)",
    "usage_events_drop_empty_months": "(date)",
}


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _partition()
    else:
        _extend_on_sqlite()
    op.create_index(
        "ix_subscription_usage_ledger_open",
        "subscription_usage_ledger",
        ["metric", "window_end"],
        postgresql_where=sa.text("state = 'open'"),
        sqlite_where=sa.text("state = 'open'"),
    )


def downgrade() -> None:
    op.drop_index("ix_subscription_usage_ledger_open", "subscription_usage_ledger")
    if op.get_bind().dialect.name == "postgresql":
        _into_one_table()
    else:
        _shrink_on_sqlite()


def _partition() -> None:
    """A parent of the same name and columns; every row is copied into the partition of its month."""
    op.execute(f"DROP TRIGGER {EVENTS}_append_only ON {EVENTS}")
    op.execute(f"ALTER TABLE {EVENTS} RENAME TO {BEFORE}")
    op.execute(f"ALTER TABLE {BEFORE} RENAME CONSTRAINT pk_{EVENTS} TO pk_{BEFORE}")
    for name in ("tenant_id", "tenant_metric", "tenant_correlation", "corrections"):
        op.execute(f"DROP INDEX ix_{EVENTS}_{name}")
    _add_slot(BEFORE)
    _place(BEFORE)
    op.execute(
        f"CREATE TABLE {EVENTS} (LIKE {BEFORE} INCLUDING DEFAULTS, "
        f"CONSTRAINT pk_{EVENTS} PRIMARY KEY (id, occurred_at)) PARTITION BY RANGE (occurred_at)"
    )
    op.execute(f"ALTER SEQUENCE {EVENTS}_id_seq OWNED BY {EVENTS}.id")
    op.execute(f"CREATE TABLE {EVENTS}_default PARTITION OF {EVENTS} DEFAULT")
    _create_functions()
    _make_months()
    op.execute(f"INSERT INTO {EVENTS} SELECT * FROM {BEFORE}")  # noqa: S608 - names of this file
    op.execute(f"DROP TABLE {BEFORE}")
    for name, form in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON {EVENTS} {form}")
    op.execute(REFUSE)
    op.execute(
        f"CREATE TRIGGER {EVENTS}_append_only BEFORE UPDATE OR DELETE ON {EVENTS} "
        "FOR EACH ROW EXECUTE FUNCTION usage_events_refuse_change()"
    )


def _make_months() -> None:
    oldest = sa.select(sa.func.min(sa.column("occurred_at"))).select_from(sa.table(BEFORE))
    op.execute(MAKE_FIRST_MONTHS.replace("OLDEST", str(oldest)))


def _create_functions() -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    schema_text = op.get_bind().scalar(sa.text("SELECT quote_literal(current_schema())"))
    for source in (MAKE_MONTHS, REMOVE, DROP_EMPTY):
        body = source.format(schema=schema, schema_text=schema_text)
        op.get_bind().exec_driver_sql(body.replace("%", "%%"))
    for name, arguments in FUNCTIONS.items():
        op.execute(f"REVOKE ALL ON FUNCTION {name}{arguments} FROM PUBLIC")


def _into_one_table() -> None:
    op.execute(f"CREATE TABLE {BEFORE} (LIKE {EVENTS} INCLUDING DEFAULTS)")
    op.execute(f"INSERT INTO {BEFORE} SELECT * FROM {EVENTS}")  # noqa: S608 - names of this file
    op.execute(f"ALTER SEQUENCE {EVENTS}_id_seq OWNED BY {BEFORE}.id")
    op.execute(f"DROP TABLE {EVENTS}")
    op.execute(f"ALTER TABLE {BEFORE} RENAME TO {EVENTS}")
    op.execute(f"ALTER TABLE {EVENTS} ADD CONSTRAINT pk_{EVENTS} PRIMARY KEY (id)")
    for name, form in list(INDEXES.items())[:4]:
        op.execute(f"CREATE INDEX {name} ON {EVENTS} {form}")
    for name in ("window_end", *reversed(SLOT)):
        op.drop_column(EVENTS, name)
    op.execute(
        f"CREATE TRIGGER {EVENTS}_append_only BEFORE UPDATE OR DELETE ON {EVENTS} "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    for name, arguments in FUNCTIONS.items():
        op.execute(f"DROP FUNCTION {name}{arguments}")
    op.execute("DROP FUNCTION usage_events_refuse_change()")


def _extend_on_sqlite() -> None:
    for change in ("update", "delete"):
        op.execute(f"DROP TRIGGER {EVENTS}_refuse_{change}")
    _add_slot(EVENTS)
    _place(EVENTS)
    op.create_index("ix_usage_events_event", EVENTS, ["tenant_id", "event_id"])
    op.create_index("ix_usage_events_occurred", EVENTS, ["occurred_at"])
    _refuse_on_sqlite("update", "")
    # What retention has said that it removes may go.
    _refuse_on_sqlite(
        "delete",
        "WHEN OLD.occurred_at >= coalesce((SELECT max(removed_before) FROM usage_retention), '') ",
    )


def _shrink_on_sqlite() -> None:
    for change in ("update", "delete"):
        op.execute(f"DROP TRIGGER {EVENTS}_refuse_{change}")
    op.drop_index("ix_usage_events_occurred", EVENTS)
    op.drop_index("ix_usage_events_event", EVENTS)
    for name in ("window_end", *reversed(SLOT)):
        op.drop_column(EVENTS, name)
    for change in ("update", "delete"):
        _refuse_on_sqlite(change, "")


def _refuse_on_sqlite(change: str, condition: str) -> None:
    op.execute(
        f"CREATE TRIGGER {EVENTS}_refuse_{change} BEFORE {change.upper()} ON {EVENTS} {condition}"
        f"BEGIN SELECT RAISE(ABORT, '{EVENTS} is append-only'); END"
    )


def _add_slot(table: str) -> None:
    for name in ("subscription_id", "window_kind"):
        op.add_column(table, sa.Column(name, sa.String(), server_default="", nullable=False))
    beginning = BEGINNING[op.get_bind().dialect.name]
    op.add_column(table, sa.Column("window_start", INSTANT, server_default=beginning, nullable=False))
    op.add_column(table, sa.Column("window_end", INSTANT, nullable=True))


def _place(table: str) -> None:
    columns = [*SLOT, "window_end"]
    placed = ", ".join(PLACED.format(target=name, column=name, events=table) for name in columns)
    op.execute(f"UPDATE {table} SET {placed}")  # noqa: S608 - names of this file
