-- KEYS[1]: the counter. ARGV: how many requests a window admits, and its length in milliseconds.
-- Returns whether this one is admitted, how many were admitted in the window, and the milliseconds left of it.
local used = tonumber(redis.call('GET', KEYS[1])) or 0
local left = redis.call('PTTL', KEYS[1])
if used < 1 or left < 0 then
	redis.call('SET', KEYS[1], 1, 'PX', ARGV[2])
	return {1, 1, tonumber(ARGV[2])}
end
if used >= tonumber(ARGV[1]) then return {0, used, left} end
return {1, redis.call('INCR', KEYS[1]), left}
