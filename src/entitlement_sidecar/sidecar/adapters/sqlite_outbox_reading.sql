-- What `entitlements outbox` asks of an outbox's file, which another process may be writing.

-- name: as_version_2
-- A file of version 1 as one of version 2: for this connection alone.
CREATE TEMP VIEW epochs AS SELECT epoch, accepted, settled, dead, 0 AS lost FROM main.epochs;
CREATE TEMP VIEW records AS SELECT *, 0 AS lane, NULL AS value, NULL AS count FROM main.records;
CREATE TEMP VIEW batches AS SELECT *, NULL AS lane FROM main.batches;
CREATE TEMP VIEW dead_letters AS SELECT *, NULL AS value, NULL AS count FROM main.dead_letters;
CREATE TEMP VIEW declared AS SELECT 0 AS first_place, 0 AS last_place WHERE 0;

-- name: as_version_3
-- A file of version 2 as one of version 3: it knows no leases.
CREATE TEMP VIEW leases AS
SELECT 0 AS number, '' AS lease_id, '' AS tenant_id, '' AS feature, '' AS holder, NULL AS ends_at, '' AS block,
       0 AS proved
WHERE 0;
CREATE TEMP VIEW lease_uses AS SELECT 0 AS number, 0 AS used WHERE 0;

-- name: instance
-- The identity of the file.
SELECT id FROM instance;

-- name: epochs
-- Totals of each start, with what is really held of it.
SELECT epoch, accepted, settled, dead, lost,
       (SELECT count(*) FROM records WHERE place BETWEEN epoch << 40 AND (epoch + 1 << 40) - 1),
       (SELECT count(*) FROM dead_letters WHERE place BETWEEN epoch << 40 AND (epoch + 1 << 40) - 1)
FROM epochs ORDER BY epoch;

-- name: accepted
-- What each start accepted.
SELECT epoch, accepted FROM epochs ORDER BY epoch;

-- name: queued
-- Events that the plan store has not settled, between two places, both left out.
SELECT place, tenant_id, event_id, payload, value, count, digest, NULL, ''
FROM records WHERE place > ?1 AND place < ?2 ORDER BY place {direction} LIMIT ?3;

-- name: dead
-- Events that were refused for good, between two places, both left out.
SELECT place, tenant_id, event_id, payload, value, count, NULL, outcome, reason
FROM dead_letters WHERE place > ?1 AND place < ?2 ORDER BY place {direction} LIMIT ?3;

-- name: batches
-- Stored boundaries, with how many of their events wait.
SELECT batch_id, first_place, last_place, lane,
       (SELECT count(*) FROM records WHERE place BETWEEN first_place AND last_place
        AND (batches.lane IS NULL OR records.lane = batches.lane))
FROM batches ORDER BY batch_id;

-- name: first_answers
-- First answers of CONSUMEs that are kept for retries.
SELECT count(*) FROM consumptions;

-- name: leases
-- Accounts of leases, the most used first.
SELECT lease_id, tenant_id, feature, holder, ends_at, block, coalesce(used, 0), proved
FROM leases LEFT JOIN lease_uses USING (number) ORDER BY used DESC, lease_id;

-- name: live_pages
-- Pages that hold something, and their size.
SELECT (SELECT page_count FROM pragma_page_count()) - (SELECT freelist_count FROM pragma_freelist_count()),
       (SELECT page_size FROM pragma_page_size());
