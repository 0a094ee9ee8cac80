-- Lets a block grant what the database has delegated to it, in total since it was laid.
--
-- Invariant: what the block was granted here is at most what the database says: that is raised first. The
-- total only grows, so a call that comes twice or late changes nothing.
--
-- KEYS[1]  block (hash)
-- ARGV[1]  id      ARGV[2]  granted, in total      ARGV[3]  number of the request that the database granted
-- last
-- Returns {status}; status: ok, missing, another_run, another_block.
local held = redis.call('HMGET', KEYS[1], 'id', 'run_id', 'granted', 'sequence')
if not held[1] then
  return {'missing'}
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if held[2] ~= run then
  return {'another_run'}
end
if ARGV[1] ~= held[1] then
  return {'another_block'}
end
if tonumber(ARGV[3]) > tonumber(held[4]) then
  redis.call('HSET', KEYS[1], 'sequence', ARGV[3])
end
if tonumber(ARGV[2]) > tonumber(held[3]) then
  redis.call('HSET', KEYS[1], 'granted', ARGV[2])
end
return {'ok'}
