-- Stores a signed envelope, newest version wins.
--
-- Invariant: a stored version never goes back, except from exactly the version that the caller names as
-- wrong (found newer than the database's own newest: forged, or the database was restored).
-- Storing the same again changes nothing; the same version with other bytes is repaired, and so is a version
-- that is no number.
--
-- KEYS[1]  hash of `version` and `envelope`
-- ARGV[1]  version          ARGV[2]  envelope          ARGV[3]  wrong version to replace, or ''
-- Returns '' when what is stored now is the caller's, else the newer version that is held.
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'hash' and kind ~= 'none' then
  redis.call('DEL', KEYS[1])
end
local held = redis.call('HGET', KEYS[1], 'version')
-- Fifteen digits: more than any version has, and as many as a Lua number holds exactly.
local number = held and #held <= 15 and string.match(held, '^%d+$') and tonumber(held)
if number and held ~= ARGV[3] and number > tonumber(ARGV[1]) then
  return held
end
if held ~= ARGV[1] or redis.call('HGET', KEYS[1], 'envelope') ~= ARGV[2] then
  redis.call('HSET', KEYS[1], 'version', ARGV[1], 'envelope', ARGV[2])
end
return ''
