-- Begins a new epoch of a shard's feed, after its values were refilled.
--
-- Invariant: of several publishers that found the same old epoch, one begins the new one.
-- Entries of older epochs stay until they are trimmed: readers know them by their epoch.
--
-- KEYS[1]  feed stream      KEYS[2]  heartbeat stream      KEYS[3]  feed state
-- ARGV[1]  epoch that was found, or ''                     ARGV[2]  the new epoch
-- ARGV[3]  the servers that it is bound to, or '' where one server holds everything
-- Returns 1, or 0 when another has begun one meanwhile.
local expected = {'stream', 'stream', 'hash'}
for i = 1, 3 do
  local kind = redis.call('TYPE', KEYS[i])['ok']
  if kind ~= expected[i] and kind ~= 'none' then
    redis.call('DEL', KEYS[i])
  end
end
local found = redis.call('HGET', KEYS[3], 'epoch') or ''
if found ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[3])
redis.call('HSET', KEYS[3], 'epoch', ARGV[2], 'sequence', 0)
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[3], 'servers', ARGV[3])
end
return 1
