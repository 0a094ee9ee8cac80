-- Has a block give up what is free in it, down to what it may keep.
--
-- Invariant: only what no holder has is given up, and it is given up here before the database takes it back.
-- The total only grows: who does not hear the answer reads it later.
--
-- KEYS[1]  block (hash)
-- ARGV[1]  id      ARGV[2]  how much may stay free      ARGV[3]  '1': nothing is granted from it any more
-- Returns {status, returned in total, given up by this call}; status: ok, missing, another_run,
-- another_block.
local held = redis.call('HMGET', KEYS[1], 'id', 'run_id', 'granted', 'returned', 'given', 'back')
if not held[1] then
  return {'missing', '0', '0'}
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if held[2] ~= run then
  return {'another_run', '0', '0'}
end
if ARGV[1] ~= held[1] then
  return {'another_block', '0', '0'}
end
local free = tonumber(held[3]) - tonumber(held[4]) - tonumber(held[5]) + tonumber(held[6])
local gives = math.max(0, free - tonumber(ARGV[2]))
local returned = string.format('%.0f', tonumber(held[4]) + gives)
redis.call('HSET', KEYS[1], 'returned', returned)
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[1], 'closing', '1')
end
return {'ok', returned, string.format('%.0f', gives)}
