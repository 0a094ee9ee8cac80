-- The tables of an outbox of version 1, as released before windows and rollups.
CREATE TABLE instance (id TEXT NOT NULL) STRICT;
CREATE TABLE epochs (
  epoch INTEGER PRIMARY KEY,
  accepted INTEGER NOT NULL DEFAULT 0,
  settled INTEGER NOT NULL DEFAULT 0,
  dead INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE records (
  place INTEGER PRIMARY KEY,
  tenant_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  digest BLOB NOT NULL,
  recorded_at INTEGER NOT NULL,
  payload BLOB NOT NULL,
  UNIQUE (tenant_id, event_id)
) STRICT;
CREATE TABLE batches (
  batch_id INTEGER PRIMARY KEY AUTOINCREMENT,
  first_place INTEGER NOT NULL,
  last_place INTEGER NOT NULL
) STRICT;
CREATE TABLE consumptions (
  tenant_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  quantity INTEGER NOT NULL,
  answer BLOB NOT NULL,
  settlement INTEGER,
  PRIMARY KEY (tenant_id, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX settled_consumptions ON consumptions (settlement) WHERE settlement IS NOT NULL;
CREATE TABLE dead_letters (
  place INTEGER PRIMARY KEY,
  tenant_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  outcome INTEGER NOT NULL,
  reason TEXT NOT NULL,
  payload BLOB NOT NULL
) STRICT;

