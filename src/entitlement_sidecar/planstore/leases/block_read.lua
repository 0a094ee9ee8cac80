-- What a block has and has given, and which run of the server answers. Changes nothing.
--
-- KEYS[1]  block (hash)
-- Returns {run, clock in microseconds, id, run_id, starts_at, ends_at, closing, granted, returned, given,
-- back, used, holders, sequence, overdrawn}; all '' but the first two where there is no block.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local time = redis.call('TIME')
local answer = {run, string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))}
local held = {}
if redis.call('TYPE', KEYS[1])['ok'] == 'hash' then
  held = redis.call('HMGET', KEYS[1], 'id', 'run_id', 'starts_at', 'ends_at', 'closing', 'granted',
    'returned', 'given', 'back', 'used', 'holders', 'sequence', 'overdrawn')
end
for i = 1, 13 do
  answer[2 + i] = held[i] or ''
end
return answer
