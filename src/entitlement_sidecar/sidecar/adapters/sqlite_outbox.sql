-- The outbox's file: its tables, and every statement that touches them, by name.
--
-- `place` is an event's epoch and sequence in one key that sorts by both: epoch << 40 | sequence.
-- Statements that read many rows return one: the interpreter's lock is let go and taken again for every row
-- that is fetched, which a busy event loop makes expensive.

-- name: schema
-- Everything that the file holds. `settlement` numbers settlements; NULL while the event is queued.
-- A record without a digest has an identity that was made for it, and is told from no other: keeping such
-- identities apart would take most of the time of an insert.
-- `lane` keeps the order per tenant and metric. `value` and `count` are a rollup's, else NULL.
-- A batch without a lane has all of them. `declared` are places that will never be sent.
-- `home` is where the file lay when it was last opened. `boot` of a lease is empty while all that was used of it
-- is on disk; else the boot of the machine in which it may not be.
CREATE TABLE instance (id TEXT NOT NULL, home TEXT NOT NULL DEFAULT '') STRICT;
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
  count INTEGER
) STRICT;
CREATE UNIQUE INDEX identities ON records (tenant_id, event_id) WHERE digest <> x'';
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
CREATE TABLE leases (
  number INTEGER PRIMARY KEY,
  lease_id TEXT NOT NULL UNIQUE,
  holder TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  feature TEXT NOT NULL,
  ends_at INTEGER,
  block TEXT NOT NULL,
  boot TEXT NOT NULL,
  proved INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE TABLE lease_uses (
  number INTEGER PRIMARY KEY,
  used INTEGER NOT NULL
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

-- name: schema_3
-- From version 2 of the file to version 3: leases, and identities that are kept apart only where they have to be.
-- Records are copied once, which takes as much room again until it is done.
ALTER TABLE records RENAME TO former_records;
CREATE TABLE records (
  place INTEGER PRIMARY KEY,
  tenant_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  digest BLOB NOT NULL,
  recorded_at INTEGER NOT NULL,
  payload BLOB NOT NULL,
  lane INTEGER NOT NULL DEFAULT 0,
  value INTEGER,
  count INTEGER
) STRICT;
INSERT INTO records SELECT place, tenant_id, event_id, digest, recorded_at, payload, lane, value, count
FROM former_records;
DROP TABLE former_records;
CREATE UNIQUE INDEX identities ON records (tenant_id, event_id) WHERE digest <> x'';
ALTER TABLE instance ADD COLUMN home TEXT NOT NULL DEFAULT '';
CREATE TABLE leases (
  number INTEGER PRIMARY KEY,
  lease_id TEXT NOT NULL UNIQUE,
  holder TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  feature TEXT NOT NULL,
  ends_at INTEGER,
  block TEXT NOT NULL,
  boot TEXT NOT NULL,
  proved INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE TABLE lease_uses (
  number INTEGER PRIMARY KEY,
  used INTEGER NOT NULL
) STRICT;

-- name: new_instance
-- The identity of this file, for as long as it lives.
INSERT INTO instance (id) VALUES (?);

-- name: read_instance
-- The identity of this file.
SELECT id FROM instance;

-- name: read_home
-- Where the file lay when it was last opened.
SELECT home FROM instance;

-- name: set_home
-- Remembers where the file lies.
UPDATE instance SET home = ?;

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
INSERT OR IGNORE INTO records (place, tenant_id, event_id, digest, recorded_at, payload, lane) VALUES {rows};

-- name: insert_consumptions
-- Keeps first answers, of what is summed up with the place of its record; says how many were new.
INSERT OR IGNORE INTO consumptions (tenant_id, event_id, quantity, answer, rolled_into) VALUES {rows};

-- name: grow
-- What rollups stand for: a JSON list of [place, value, count].
UPDATE records SET value = one.value ->> 1, count = one.value ->> 2
FROM json_each(?) AS one WHERE place = one.value ->> 0;

-- name: held
-- Of a JSON list of [tenant, event id, is summed up]: the list's positions that are held, with their digests.
SELECT group_concat(position || ' ' || digest)
FROM (
  SELECT asked.key AS position, hex(digest) AS digest
  FROM json_each(?1) AS asked
  JOIN records ON tenant_id = asked.value ->> 0 AND event_id = asked.value ->> 1 AND digest <> x''
  WHERE NOT asked.value ->> 2
  UNION ALL
  SELECT asked.key, hex('consumed ' || quantity)
  FROM json_each(?1) AS asked
  JOIN consumptions ON tenant_id = asked.value ->> 0 AND event_id = asked.value ->> 1
  WHERE asked.value ->> 2
);

-- name: count_accepted
-- Adds to an epoch's total.
UPDATE epochs SET accepted = accepted + ? WHERE epoch = ?;

-- name: batches
-- The batches that were not settled in full, all of one window.
SELECT batch_id, first_place, last_place, lane FROM batches ORDER BY batch_id;

-- name: first_place
-- Where the backlog begins.
SELECT min(place) FROM records;

-- name: sizes
-- Places, sizes and lanes of the first events of one epoch.
SELECT group_concat(place || ' ' || size || ' ' || lane)
FROM (
  SELECT place, length(payload) AS size, lane FROM records WHERE place BETWEEN ? AND ? ORDER BY place LIMIT ?
);

-- name: store_batch
-- Fixes a batch's boundaries.
INSERT INTO batches (first_place, last_place, lane) VALUES (?, ?, ?);

-- name: payloads
-- The events of a batch that still wait; what rollups stand for, with their identity.
SELECT group_concat(place), group_concat(hex(payload)),
       group_concat(CASE WHEN value IS NULL THEN '' ELSE event_id || ' ' || value || ' ' || count END)
FROM (
  SELECT place, payload, event_id, value, count
  FROM records WHERE place BETWEEN ?1 AND ?2 AND (?3 IS NULL OR lane = ?3) ORDER BY place
);

-- name: totals_of
-- An epoch's totals.
SELECT accepted, dead FROM epochs WHERE epoch = ?;

-- name: bury
-- Copies refused events, a JSON list of [place, outcome, reason], to where operators find them.
INSERT OR REPLACE INTO dead_letters (place, tenant_id, event_id, outcome, reason, payload, value, count)
SELECT place, tenant_id, event_id, refused.value ->> 1, refused.value ->> 2, payload, records.value, records.count
FROM json_each(?) AS refused JOIN records ON place = refused.value ->> 0;

-- name: settle_consumptions
-- First answers of events that leave (a JSON list of places) are kept for a while more.
UPDATE consumptions SET settlement = ?
WHERE (tenant_id, event_id) IN (
  SELECT tenant_id, event_id FROM records WHERE place IN (SELECT value FROM json_each(?))
);

-- name: settle_rolled_consumptions
-- The same for first answers of what was summed up in them.
UPDATE consumptions SET settlement = ?
WHERE rolled_into IS NOT NULL AND rolled_into IN (SELECT value FROM json_each(?));

-- name: dead_of_outcome
-- How many dead letters there are of one outcome.
SELECT count(*) FROM dead_letters WHERE outcome = ?;

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
  AND NOT EXISTS (
    SELECT 1 FROM records
    WHERE place BETWEEN first_place AND last_place AND (batches.lane IS NULL OR records.lane = batches.lane)
  );

-- name: close_empty_batches
-- Batches of which nothing waits, where records were lost with a part of the file.
DELETE FROM batches
WHERE NOT EXISTS (
  SELECT 1 FROM records
  WHERE place BETWEEN first_place AND last_place AND (batches.lane IS NULL OR records.lane = batches.lane)
);

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

-- name: revivable
-- Dead letters of a JSON list of places, once per identity, and none that is queued already.
SELECT min(place), tenant_id, event_id, payload, value, count
FROM dead_letters
WHERE place IN (SELECT value FROM json_each(?))
  AND NOT EXISTS (
    SELECT 1 FROM records AS held
    WHERE held.tenant_id = dead_letters.tenant_id AND held.event_id = dead_letters.event_id
      AND held.digest <> x''
  )
GROUP BY tenant_id, event_id ORDER BY 1;

-- name: buried
-- Which of a JSON list of places are dead letters.
SELECT place FROM dead_letters WHERE place IN (SELECT value FROM json_each(?));

-- name: declare_places
-- Remembers a JSON list of places that will never be sent.
INSERT OR IGNORE INTO declared (first_place, last_place) SELECT value, value FROM json_each(?);

-- name: unearth
-- Dead letters that leave: a JSON list of places.
DELETE FROM dead_letters WHERE place IN (SELECT value FROM json_each(?));

-- name: count_revived
-- Dead letters that went back into the queue under other places.
UPDATE epochs SET dead = dead - ?1, settled = settled + ?1 WHERE epoch = ?2;

-- name: count_discarded
-- Dead letters that were given up.
UPDATE epochs SET dead = dead - ?1, lost = lost + ?1 WHERE epoch = ?2;

-- name: unbalanced
-- Whether what is held is not what the totals say.
SELECT (SELECT count(*) FROM records) <> coalesce(sum(accepted - settled - dead - lost), 0)
    OR (SELECT count(*) FROM dead_letters) <> coalesce(sum(dead), 0)
FROM epochs;

-- name: balances
-- Epochs whose totals do not fit what is held: what was accepted, and what the rest adds up to.
SELECT epoch, accepted, settled + queued + buried + lost
FROM (
  SELECT epochs.*,
         (SELECT count(*) FROM records WHERE place BETWEEN epoch << 40 AND (epoch + 1 << 40) - 1) AS queued,
         (SELECT count(*) FROM dead_letters WHERE place BETWEEN epoch << 40 AND (epoch + 1 << 40) - 1) AS buried
  FROM epochs
)
WHERE accepted <> settled + queued + buried + lost OR dead <> buried;

-- name: balance
-- Makes totals fit what is held: what is missing is lost, what is too much was accepted.
UPDATE epochs
SET dead = held.buried,
    accepted = max(accepted, settled + held.queued + held.buried + lost),
    lost = lost + max(0, accepted - settled - held.queued - held.buried - lost)
FROM (
  SELECT epoch AS of,
         (SELECT count(*) FROM records WHERE place BETWEEN epoch << 40 AND (epoch + 1 << 40) - 1) AS queued,
         (SELECT count(*) FROM dead_letters WHERE place BETWEEN epoch << 40 AND (epoch + 1 << 40) - 1) AS buried
  FROM epochs
) AS held
WHERE epoch = held.of;

-- name: open_lease
-- Keeps an account before anything of it is used; answers its number where it is new.
INSERT OR IGNORE INTO leases (lease_id, holder, tenant_id, feature, ends_at, block, boot)
VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING number;

-- name: use_leases
-- Adds what events used of accounts. These rows change with each commit, so they are small and lie together.
INSERT INTO lease_uses (number, used) VALUES {rows}
ON CONFLICT (number) DO UPDATE SET used = used + excluded.used;

-- name: risk_leases
-- From here on uses of a JSON list of leases may be lost with this boot of the machine.
UPDATE leases SET boot = ? WHERE lease_id IN (SELECT value FROM json_each(?));

-- name: review_leases
-- At a start, which is forced to disk: what was at risk in another boot is not proved, nor is anything of a copy.
UPDATE leases SET proved = proved AND ?2 AND boot IN ('', ?1), boot = '' WHERE boot <> '' OR NOT ?2;

-- name: secure_leases
-- All that was used is on disk.
UPDATE leases SET boot = '' WHERE boot <> '';

-- name: forget_uses
-- Forgets what was used of a JSON list of leases.
DELETE FROM lease_uses WHERE number IN (
  SELECT number FROM leases WHERE lease_id IN (SELECT value FROM json_each(?))
);

-- name: close_leases
-- Forgets a JSON list of leases, of which `forget_uses` has forgotten the uses.
DELETE FROM leases WHERE lease_id IN (SELECT value FROM json_each(?));

-- name: leases
-- All accounts.
SELECT lease_id, tenant_id, feature, holder, ends_at, block, coalesce(used, 0), proved
FROM leases LEFT JOIN lease_uses USING (number) ORDER BY lease_id;

-- name: numbers
-- The number of each account.
SELECT lease_id, number FROM leases;
