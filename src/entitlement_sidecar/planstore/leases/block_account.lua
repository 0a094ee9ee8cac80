-- Settles for a holder of a block that is lost, by all events that there will ever be: `account_for` of
-- domain/lease.py.
--
-- Invariant: only an account that is closed gives anything back here, and what it has used is taken over in the
-- same step. What its holder tells later all the same counts as used once more, and as overdrawn.
--
-- KEYS[1]  block (hash)
-- ARGV[1]  id      ARGV[2]  holder      ARGV[3]  used, in total, by its events
-- Returns {status, tokens that came back}; status: ok, missing, another_run, another_block.
local held = redis.call('HMGET', KEYS[1], 'id', 'run_id', 'back', 'used', 'overdrawn', 'a:' .. ARGV[2])
if not held[1] then
  return {'missing', '0'}
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if held[2] ~= run then
  return {'another_run', '0'}
end
if ARGV[1] ~= held[1] then
  return {'another_block', '0'}
end
local a = {}
for number in string.gmatch(held[6] or '', '%d+') do
  a[#a + 1] = tonumber(number)
end
if a[6] ~= 1 then
  return {'ok', '0'}
end
local outstanding = math.max(0, a[1] - a[2] - a[3] - a[7])
local used = math.min(math.max(a[2], tonumber(ARGV[3])), a[1] - a[3])
local newly = used - a[2]
local comes = math.max(0, outstanding - newly)
redis.call('HSET', KEYS[1], 'back', string.format('%.0f', tonumber(held[3]) + comes),
  'used', string.format('%.0f', tonumber(held[4]) + newly),
  'overdrawn', string.format('%.0f', tonumber(held[5]) + math.max(0, newly - outstanding)),
  'a:' .. ARGV[2], string.format('%.0f %.0f %.0f %.0f %.0f 1 %.0f', a[1], used, a[3], a[4], a[5], a[7] + comes))
return {'ok', string.format('%.0f', comes)}
