-- Closes the accounts of holders whose time is over: `lose` of domain/lease.py, for all holders of a block.
--
-- Invariant: what a lost holder may have used is not granted again, unless it is reclaimed, and then only
-- once no clock can let it be used any more. An account is forgotten only where no message can change it any
-- more, or none is under way. Of those that a holder numbers, `<holder>#<n>`, the highest that is forgotten is
-- kept as t:<holder>: the numbers only grow, so up to there nothing is opened again.
--
-- KEYS[1]  block (hash)
-- ARGV[1]  id      ARGV[2]  '1': what they held is taken back      ARGV[3]  microseconds past their time
-- Returns {status, accounts closed, tokens that stay spent, tokens taken back}, each of this call, and then up to
-- 100 lost holders that still have something; status: ok, missing, another_run, another_block.
local held = redis.call('HMGET', KEYS[1], 'id', 'run_id')
if not held[1] then
  return {'missing', '0', '0', '0'}
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' ..
  string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if held[2] ~= run then
  return {'another_run', '0', '0', '0'}
end
if ARGV[1] ~= held[1] then
  return {'another_block', '0', '0', '0'}
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local found = redis.call('HGETALL', KEYS[1])
local lost = {}
local DAY = 86400000000
local closed, forfeited, reclaimed, live, back = 0, 0, 0, 0, 0
local known, forgotten = {}, {}
for i = 1, #found, 2 do
  if found[i] == 'back' then
    back = tonumber(found[i + 1])
  elseif string.sub(found[i], 1, 2) == 't:' then
    local n, at = string.match(found[i + 1], '^(%d+) (%d+)$')
    known[string.sub(found[i], 3)] = tonumber(n)
    if now > tonumber(at) + DAY then
      redis.call('HDEL', KEYS[1], found[i])
    end
  elseif string.sub(found[i], 1, 2) == 'a:' then
    local a = {}
    for number in string.gmatch(found[i + 1], '%d+') do
      a[#a + 1] = tonumber(number)
    end
    local holder, n = string.match(found[i], '^a:(.*)#(%d+)$')
    if a[6] == 1 and a[1] > a[2] + a[3] + a[7] and #lost < 100 then
      lost[#lost + 1] = string.sub(found[i], 3)
    elseif a[6] == 1 and a[7] == 0 and a[1] <= a[2] + a[3] and holder then
      forgotten[holder] = math.max(forgotten[holder] or 0, tonumber(n))
      redis.call('HDEL', KEYS[1], found[i])
    elseif a[6] == 1 and now > a[5] + DAY and a[1] <= a[2] + a[3] + a[7] then
      -- Settled long ago: no message of it is under way any more.
      redis.call('HDEL', KEYS[1], found[i])
    elseif a[6] == 0 and now < a[5] + tonumber(ARGV[3]) then
      live = live + 1
    elseif a[6] == 0 then
      local outstanding = math.max(0, a[1] - a[2] - a[3] - a[7])
      if ARGV[2] == '1' then
        a[7], reclaimed = a[7] + outstanding, reclaimed + outstanding
      else
        forfeited = forfeited + outstanding
      end
      closed = closed + 1
      redis.call('HSET', KEYS[1], found[i], string.format('%.0f %.0f %.0f %.0f %.0f 1 %.0f', a[1], a[2], a[3],
        a[4], a[5], a[7]))
    end
  end
end
for holder, n in pairs(forgotten) do
  redis.call('HSET', KEYS[1], 't:' .. holder, string.format('%.0f %.0f', math.max(n, known[holder] or 0), now))
end
redis.call('HSET', KEYS[1], 'holders', live, 'back', string.format('%.0f', back + reclaimed))
return {'ok', closed, string.format('%.0f', forfeited), string.format('%.0f', reclaimed), unpack(lost)}
