-- The outbox's file: its tables, and every statement that touches them, by name.
--
-- `place` is an event's epoch and sequence in one key that sorts by both: epoch << 40 | sequence.
-- Statements that read many rows return one: the interpreter's lock is let go and taken again for every row
-- that is fetched, which a busy event loop makes expensive.

-- name: schema
-- Everything that the file holds. `settlement` numbers settlements; NULL while the event is queued.
-- `lane` keeps the order per tenant and metric. `value` and `count` are a rollup's, else NULL.
-- A batch without a lane has all of them. `declared` are places that will never be sent.
CREATE TABLE instance (id TEXT NOT NULL) STRICT;
CREATE TABLE epochs (
  epoch INTEGER PRIMARY KEY,
  accepted INTEGER NOT NULL DEFAULT 0,
  settled INTEGER NOT NULL DEFAULT 0,
  dead INTEGER NOT NULL DEFAULT 0,
  lost INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE records (
  place INTEGER PRIMARY KEY,
  tenant_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  digest BLOB NOT NULL,
  recorded_at INTEGER NOT NULL,
  payload BLOB NOT NULL,
  lane INTEGER NOT NULL DEFAULT 0,
  value INTEGER,
  count INTEGER,
  UNIQUE (tenant_id, event_id)
) STRICT;
CREATE TABLE batches (
  batch_id INTEGER PRIMARY KEY AUTOINCREMENT,
  first_place INTEGER NOT NULL,
  last_place INTEGER NOT NULL,
  lane INTEGER
) STRICT;
CREATE TABLE consumptions (
  tenant_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  quantity INTEGER NOT NULL,
  answer BLOB NOT NULL,
  settlement INTEGER,
  rolled_into INTEGER,
  PRIMARY KEY (tenant_id, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX settled_consumptions ON consumptions (settlement) WHERE settlement IS NOT NULL;
CREATE INDEX rolled_up_consumptions ON consumptions (rolled_into) WHERE rolled_into IS NOT NULL;
CREATE TABLE dead_letters (
  place INTEGER PRIMARY KEY,
  tenant_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  outcome INTEGER NOT NULL,
  reason TEXT NOT NULL,
  payload BLOB NOT NULL,
  value INTEGER,
  count INTEGER
) STRICT;
CREATE TABLE declared (
  first_place INTEGER PRIMARY KEY,
  last_place INTEGER NOT NULL
) STRICT;

-- name: schema_2
-- From version 1 of the file to version 2. What it holds stays as it is: its records share one lane.
ALTER TABLE epochs ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN lane INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN value INTEGER;
ALTER TABLE records ADD COLUMN count INTEGER;
ALTER TABLE batches ADD COLUMN lane INTEGER;
ALTER TABLE consumptions ADD COLUMN rolled_into INTEGER;
CREATE INDEX rolled_up_consumptions ON consumptions (rolled_into) WHERE rolled_into IS NOT NULL;
ALTER TABLE dead_letters ADD COLUMN value INTEGER;
ALTER TABLE dead_letters ADD COLUMN count INTEGER;
CREATE TABLE declared (
  first_place INTEGER PRIMARY KEY,
  last_place INTEGER NOT NULL
) STRICT;

-- name: new_instance
-- The identity of this file, for as long as it lives.
INSERT INTO instance (id) VALUES (?);

-- name: read_instance
-- The identity of this file.
SELECT id FROM instance;

-- name: begin_epoch
-- Counts this start.
INSERT INTO epochs (epoch) SELECT coalesce(max(epoch), 0) + 1 FROM epochs RETURNING epoch;

-- name: totals
-- What was ever accepted, settled, given up and lost, over all epochs.
SELECT coalesce(sum(accepted), 0), coalesce(sum(settled), 0), coalesce(sum(dead), 0), coalesce(sum(lost), 0)
FROM epochs;

-- name: forget_settlements
-- Settlements of an earlier process count as made at this start: its clock is gone.
UPDATE consumptions SET settlement = 0 WHERE settlement > 0;

-- name: insert_records
-- Keeps events; says by its row count whether all identities were new.
INSERT OR IGNORE INTO records (place, tenant_id, event_id, digest, recorded_at, payload) VALUES {rows};

-- name: insert_consumptions
-- Keeps first answers.
INSERT OR IGNORE INTO consumptions (tenant_id, event_id, quantity, answer) VALUES {rows};

-- name: held
-- Of a JSON list of [tenant, event id]: the list's positions that are held, with their digests.
SELECT group_concat(asked.key || ' ' || hex(records.digest))
FROM json_each(?) AS asked
JOIN records ON records.tenant_id = asked.value ->> 0 AND records.event_id = asked.value ->> 1;

-- name: count_accepted
-- Adds to an epoch's total.
UPDATE epochs SET accepted = accepted + ? WHERE epoch = ?;

-- name: oldest_batch
-- The batch that was not settled in full.
SELECT batch_id, first_place, last_place FROM batches ORDER BY batch_id LIMIT 1;

-- name: first_place
-- Where the backlog begins.
SELECT min(place) FROM records;

-- name: sizes
-- Places and sizes of the first events of one epoch.
SELECT group_concat(place || ' ' || size)
FROM (SELECT place, length(payload) AS size FROM records WHERE place BETWEEN ? AND ? ORDER BY place LIMIT ?);

-- name: store_batch
-- Fixes a batch's boundaries.
INSERT INTO batches (first_place, last_place) VALUES (?, ?) RETURNING batch_id;

-- name: payloads
-- The events of a batch that still wait.
SELECT group_concat(place), group_concat(hex(payload))
FROM (SELECT place, payload FROM records WHERE place BETWEEN ? AND ? ORDER BY place);

-- name: accepted_in
-- An epoch's totals.
SELECT accepted, dead FROM epochs WHERE epoch = ?;

-- name: bury
-- Copies refused events, a JSON list of [place, outcome, reason], to where operators find them.
INSERT OR REPLACE INTO dead_letters (place, tenant_id, event_id, outcome, reason, payload)
SELECT place, tenant_id, event_id, refused.value ->> 1, refused.value ->> 2, payload
FROM json_each(?) AS refused JOIN records ON place = refused.value ->> 0;

-- name: settle_consumptions
-- First answers of events that leave (a JSON list of places) are kept for a while more.
UPDATE consumptions SET settlement = ?
WHERE (tenant_id, event_id) IN (
  SELECT tenant_id, event_id FROM records WHERE place IN (SELECT value FROM json_each(?))
);

-- name: delete_records
-- Events that leave: a JSON list of places.
DELETE FROM records WHERE place IN (SELECT value FROM json_each(?));

-- name: count_settled
-- Adds to an epoch's totals.
UPDATE epochs SET settled = settled + ?, dead = dead + ? WHERE epoch = ?;

-- name: close_batch
-- A batch ends when none of its events waits any more.
DELETE FROM batches
WHERE batch_id = ?
  AND NOT EXISTS (SELECT 1 FROM records WHERE place BETWEEN first_place AND last_place);

-- name: purge_consumptions
-- First answers whose time is over.
DELETE FROM consumptions WHERE settlement <= ?;

-- name: consumption
-- The first answer of a CONSUME.
SELECT quantity, answer FROM consumptions WHERE tenant_id = ? AND event_id = ?;

-- name: oldest_recorded_at
-- When the oldest queued event was recorded, in microseconds.
SELECT recorded_at FROM records ORDER BY place LIMIT 1;

-- name: live_pages
-- Pages that hold something, and their size.
SELECT (SELECT page_count FROM pragma_page_count()) - (SELECT freelist_count FROM pragma_freelist_count()),
       (SELECT page_size FROM pragma_page_size());

-- name: known_places
-- What is known of a range of places: runs that are queued, and places that will never be sent.
SELECT min(place), max(place), 'queued'
FROM (
  SELECT place, place - row_number() OVER (ORDER BY place) AS run FROM records WHERE place BETWEEN ?1 AND ?2
)
GROUP BY run
UNION ALL
SELECT place, place, 'declared' FROM dead_letters WHERE place BETWEEN ?1 AND ?2
UNION ALL
SELECT max(first_place, ?1), min(last_place, ?2), 'declared'
FROM declared WHERE first_place <= ?2 AND last_place >= ?1
ORDER BY 1;

-- name: declare
-- Remembers places that will never be sent.
INSERT INTO declared (first_place, last_place) VALUES {rows};

-- name: count_lost
-- Moves from what was settled to what is lost.
UPDATE epochs SET settled = settled - ?1, lost = lost + ?1 WHERE epoch = ?2;
