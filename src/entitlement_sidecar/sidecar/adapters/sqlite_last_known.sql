-- What was known last: its tables, and every statement that touches them, by name.
--
-- The catalogue document is the row of no tenant, ''. Instants are microseconds. An envelope is as it was
-- signed; the checksum tells damage of the disk from what somebody else has signed.

-- name: schema
-- Everything that the file holds.
CREATE TABLE snapshots (
  tenant_id TEXT PRIMARY KEY,
  version INTEGER NOT NULL,
  confirmed_at INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  envelope BLOB NOT NULL
) STRICT;
CREATE TABLE keys (
  key_id TEXT PRIMARY KEY,
  public_key BLOB NOT NULL
) STRICT;

-- name: keep
-- A version never gives way to an older one.
INSERT INTO snapshots (tenant_id, version, confirmed_at, checksum, envelope) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant_id) DO UPDATE SET
  confirmed_at = CASE WHEN excluded.version > version THEN excluded.confirmed_at
                      ELSE max(confirmed_at, excluded.confirmed_at) END,
  version = excluded.version,
  checksum = excluded.checksum,
  envelope = excluded.envelope
WHERE excluded.version >= version;

-- name: confirm
-- The version that is kept was still current.
UPDATE snapshots SET confirmed_at = max(confirmed_at, ?) WHERE tenant_id = ? AND version = ?;

-- name: forget
-- There is no such tenant.
DELETE FROM snapshots WHERE tenant_id = ?;

-- name: forget_keys
-- Those before are trusted no longer.
DELETE FROM keys;

-- name: keep_key
-- A key that is trusted.
INSERT INTO keys (key_id, public_key) VALUES (?, ?);

-- name: keys
-- Every key that is trusted.
SELECT key_id, public_key FROM keys;

-- name: read
-- What is kept of a tenant.
SELECT version, confirmed_at, checksum, envelope FROM snapshots WHERE tenant_id = ?;

-- name: bytes
-- What all envelopes take.
SELECT coalesce(sum(length(envelope)), 0) FROM snapshots;

-- name: make_room
-- An eighth of the tenants, those that were confirmed longest ago.
DELETE FROM snapshots WHERE tenant_id IN (
  SELECT tenant_id FROM snapshots WHERE tenant_id <> '' ORDER BY confirmed_at
  LIMIT (SELECT count(*) / 8 + 1 FROM snapshots)
);
