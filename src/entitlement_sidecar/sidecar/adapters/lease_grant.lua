-- Takes over what a holder says of itself and grants it more of a block: `grant` of domain/lease.py.
--
-- Invariant: what is given and did not come back is at most what the block has: given - back <= granted -
-- returned. A request that was granted anything is known by its number, in the account itself: the same one
-- again, or one before it, is granted nothing. Nothing is granted by a server that is not the very one that
-- the block was delegated to, nor outside its window, nor once it is closing; what the holder says is taken
-- over then still, unless the server or the block is another. An account that was settled and forgotten (see
-- block_lose.lua) is not opened again: it is closed. Every number is a whole one below 2^53.
--
-- KEYS[1]  block (hash)
-- ARGV[1]  id of the block, or '' for the one that is there     ARGV[2]  holder
-- ARGV[3]  number of the request    ARGV[4]  used, in total     ARGV[5]  returned, in total
-- ARGV[6]  wanted: granted as far as it is a fair share of what is free, or is no more than ARGV[7]
-- ARGV[8]  TTL in microseconds
-- Returns {status, block, granted in total, number of the last request that was granted anything, closed,
-- free, all that the block has}; status: ok, missing, another_run, another_block, not_begun, ended, closing.
local LARGEST = 9007199254740991
local held = redis.call('HMGET', KEYS[1], 'id', 'run_id', 'starts_at', 'ends_at', 'closing', 'granted',
  'returned', 'given', 'back', 'used', 'holders', 'a:' .. ARGV[2], 'overdrawn')
if not held[1] then
  return {'missing', '', '0', '0', '0', '0', '0'}
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if held[2] ~= run then
  return {'another_run', held[1], '0', '0', '0', '0', '0'}
end
if ARGV[1] ~= '' and ARGV[1] ~= held[1] then
  return {'another_block', held[1], '0', '0', '0', '0', '0'}
end
local of, n = string.match(ARGV[2], '^(.*)#(%d+)$')
local forgotten = not held[12] and of and redis.call('HGET', KEYS[1], 't:' .. of)
if forgotten and tonumber(n) <= tonumber(string.match(forgotten, '^%d+')) then
  local all = tonumber(held[6]) - tonumber(held[7])
  local free = all - tonumber(held[8]) + tonumber(held[9])
  return {'ok', held[1], '0', '0', '1', string.format('%.0f', free), string.format('%.0f', all)}
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local size = tonumber(held[6]) - tonumber(held[7])
local given, back, used = tonumber(held[8]), tonumber(held[9]), tonumber(held[10])
local holders = tonumber(held[11])
local account = {0, 0, 0, 0, 0, 0, 0}
if held[12] then
  account = {}
  for number in string.gmatch(held[12], '%d+') do
    account[#account + 1] = tonumber(number)
  end
end
local a = {granted = account[1], used = account[2], returned = account[3], sequence = account[4],
  expires = account[5], closed = account[6], reclaimed = account[7]}

-- absorb
local told_used = math.min(math.max(a.used, tonumber(ARGV[4])), a.granted - a.returned)
local told_returned = math.min(math.max(a.returned, tonumber(ARGV[5])), a.granted - a.reclaimed - told_used)
told_returned = math.max(told_returned, a.returned)
local outstanding = math.max(0, a.granted - a.used - a.returned - a.reclaimed)
local overdrawn = tonumber(held[13]) + math.max(0, told_used - a.used - outstanding)
used = used + told_used - a.used
back = back + told_returned - a.returned
a.used, a.returned = told_used, told_returned

-- grant
local status, sequence = 'ok', tonumber(ARGV[3])
local starts_at, ends_at = tonumber(held[3]), tonumber(held[4])
if held[5] == '1' then
  status = 'closing'
elseif now < starts_at then
  status = 'not_begun'
elseif ends_at > 0 and now >= ends_at then
  status = 'ended'
elseif a.closed == 0 and sequence > a.sequence then
  if not held[12] then
    holders = holders + 1
  end
  local free = size - given + back
  local share = math.max(1, tonumber(ARGV[7]), math.floor(free / (2 * math.max(1, holders))))
  local granted = math.max(0, math.min(tonumber(ARGV[6]), share, free, LARGEST - given))
  a.granted, a.sequence, given = a.granted + granted, sequence, given + granted
  a.expires = now + tonumber(ARGV[8])
end
if held[12] or a.sequence > 0 then
  redis.call('HSET', KEYS[1], 'given', string.format('%.0f', given), 'back', string.format('%.0f', back),
    'used', string.format('%.0f', used), 'overdrawn', string.format('%.0f', overdrawn),
    'holders', string.format('%.0f', holders),
    'a:' .. ARGV[2], string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f', a.granted, a.used, a.returned,
      a.sequence, a.expires, a.closed, a.reclaimed))
end
return {status, held[1], string.format('%.0f', a.granted), string.format('%.0f', a.sequence),
  string.format('%.0f', a.closed), string.format('%.0f', size - given + back), string.format('%.0f', size)}
