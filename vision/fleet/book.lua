-- Says when a call should come again that finds no room now: behind those that were told before, at the pace at which
-- calls went lately.
--
-- KEYS: 1 state, 2 log. ARGV: a minute (shorter in tests). Returns the wait in microseconds.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local pace = tonumber(ARGV[1]) / math.max(1, redis.call('ZCARD', KEYS[2]))
local due = math.max(now, tonumber(redis.call('HGET', KEYS[1], 'booked') or 0)) + pace
if due < now + 60 * tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'booked', string.format('%.0f', due)) end
redis.call('EXPIRE', KEYS[1], 604800)
return string.format('%.0f', due - now)
