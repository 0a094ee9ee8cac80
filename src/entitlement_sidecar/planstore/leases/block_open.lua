-- Lays an empty block where there is none: it has nothing to grant until it grows.
--
-- Invariant: a block that is laid has nothing; what it gets is delegated by the database first, to exactly
-- this id, on exactly this run of the server. The time of laying is part of the id: a copy of this command
-- that comes after a flush lays another block, which no command that was for the first one fills.
--
-- KEYS[1]  block (hash)
-- ARGV[1]  name    ARGV[2]  the run that it is bound to      ARGV[3]  begin and ARGV[4] end of its window, in
-- microseconds since 1970; an end of 0: never                ARGV[5]  id of a block that it replaces, or ''
-- Returns {status, run, id that is there now}; status: ok, another_run, another_block.
local DAY = 86400000
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if run ~= ARGV[2] then
  return {'another_run', run, ''}
end
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'hash' and kind ~= 'none' then
  redis.call('DEL', KEYS[1])
end
local found = redis.call('HGET', KEYS[1], 'id')
if found and found ~= ARGV[5] then
  return {'another_block', run, found}
end
local time = redis.call('TIME')
local id = string.format('%s-%.0f', ARGV[1], tonumber(time[1]) * 1000000 + tonumber(time[2]))
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'id', id, 'run_id', run, 'starts_at', ARGV[3], 'ends_at', ARGV[4],
  'closing', '0', 'granted', '0', 'returned', '0', 'given', '0', 'back', '0', 'used', '0', 'holders', '0', 'sequence', '0',
  'overdrawn', '0')
if ARGV[4] ~= '0' then
  -- What a plan store that went away for good left behind; nothing is granted from it any more by then.
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.floor(tonumber(ARGV[4]) / 1000) + DAY))
end
return {'ok', run, id}
