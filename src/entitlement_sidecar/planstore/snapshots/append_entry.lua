-- Appends one change to a shard's feed and numbers it.
--
-- Invariant: within an epoch, sequences are contiguous, in the order of the stream, and never given twice.
-- Nothing is appended to a feed that is not the one the database knows (another epoch, or further back than
-- the database has seen it): Redis was flushed, restored or failed over, and has to be refilled first.
--
-- KEYS[1]  feed stream      KEYS[2]  feed state (hash of `epoch`, `sequence`)
-- ARGV[1]  epoch            ARGV[2]  sequence that the database has seen    ARGV[3]  entries to keep, about
-- ARGV[4]  kind             ARGV[5]  tenant                                 ARGV[6]  version
-- Returns the entry's sequence, or -1 when the feed is another, or damaged (what lies there is deleted then, so
-- that a new one is begun).
local state = redis.call('HMGET', KEYS[2], 'epoch', 'sequence')
local sequence = string.match(state[2] or '', '^%d+$') and tonumber(state[2])
if state[1] ~= ARGV[1] or not sequence or sequence < tonumber(ARGV[2]) then
  return -1
end
sequence = redis.call('HINCRBY', KEYS[2], 'sequence', 1)
local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*',
  'epoch', ARGV[1], 'sequence', sequence, 'kind', ARGV[4], 'tenant', ARGV[5], 'version', ARGV[6])
if type(added) == 'table' and added['err'] then
  redis.call('DEL', KEYS[1], KEYS[2])
  return -1
end
return sequence
