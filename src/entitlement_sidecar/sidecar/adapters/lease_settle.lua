-- Takes over what a holder says of itself, and grants nothing: `absorb` and `end` of domain/lease.py.
--
-- Invariant: a holder is believed to have used and returned at most what it was granted, and each of it once:
-- totals only grow. Also after the block's window, and while it is closing; not where the server or the block
-- is another than the one that granted. Every number is a whole one below 2^53.
--
-- KEYS[1]  block (hash)
-- ARGV[1]  id of the block      ARGV[2]  holder      ARGV[3]  used, in total      ARGV[4]  returned, in total
-- ARGV[5]  '1': the holder has finished: all that it did not use comes back, and its account is closed
-- Returns {status, block, granted in total, number of the last request that was granted anything, closed,
-- free, all that the block has}; status: ok, missing, another_run, another_block.
local held = redis.call('HMGET', KEYS[1], 'id', 'run_id', 'granted', 'returned', 'given', 'back', 'used',
  'a:' .. ARGV[2], 'overdrawn', 'holders')
if not held[1] then
  return {'missing', '', '0', '0', '0', '0', '0'}
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if held[2] ~= run then
  return {'another_run', held[1], '0', '0', '0', '0', '0'}
end
if ARGV[1] ~= held[1] then
  return {'another_block', held[1], '0', '0', '0', '0', '0'}
end
local size = tonumber(held[3]) - tonumber(held[4])
local given, back, used = tonumber(held[5]), tonumber(held[6]), tonumber(held[7])
if not held[8] then
  return {'ok', held[1], '0', '0', '0', string.format('%.0f', size - given + back),
    string.format('%.0f', size)}
end
local account = {}
for number in string.gmatch(held[8], '%d+') do
  account[#account + 1] = tonumber(number)
end
local a = {granted = account[1], used = account[2], returned = account[3], sequence = account[4],
  expires = account[5], closed = account[6], reclaimed = account[7]}

local says_returned, closed = tonumber(ARGV[4]), a.closed
if ARGV[5] == '1' then
  says_returned, closed = a.granted, 1
end

-- absorb
local told_used = math.min(math.max(a.used, tonumber(ARGV[3])), a.granted - a.returned)
local told_returned = math.min(math.max(a.returned, says_returned), a.granted - a.reclaimed - told_used)
told_returned = math.max(told_returned, a.returned)
local outstanding = math.max(0, a.granted - a.used - a.returned - a.reclaimed)
local overdrawn = tonumber(held[9]) + math.max(0, told_used - a.used - outstanding)
used = used + told_used - a.used
back = back + told_returned - a.returned
if told_used > a.used or told_returned > a.returned or closed > a.closed then
  redis.call('HSET', KEYS[1], 'back', string.format('%.0f', back), 'used', string.format('%.0f', used),
    'overdrawn', string.format('%.0f', overdrawn),
    'holders', string.format('%.0f', math.max(0, tonumber(held[10]) - closed + a.closed)),
    'a:' .. ARGV[2], string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f', a.granted, told_used, told_returned,
      a.sequence, a.expires, closed, a.reclaimed))
end
return {'ok', held[1], string.format('%.0f', a.granted), string.format('%.0f', a.sequence),
  string.format('%.0f', closed), string.format('%.0f', size - given + back), string.format('%.0f', size)}
