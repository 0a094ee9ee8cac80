-- Takes a block away for good: from then on its holders settle with the database.
--
-- Invariant: its totals are told by the very call that removes it, so nothing that it heard is lost on the way.
--
-- KEYS[1]  block (hash)
-- ARGV[1]  id
-- Returns {status, used in total, returned in total, with what was free}; status: ok, missing, another_run,
-- another_block.
local held = redis.call('HMGET', KEYS[1], 'id', 'run_id', 'granted', 'given', 'back', 'used')
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
redis.call('DEL', KEYS[1])
return {'ok', held[6], string.format('%.0f', tonumber(held[3]) - tonumber(held[4]) + tonumber(held[5]))}
