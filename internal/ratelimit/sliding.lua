-- KEYS[1]: the admitted requests of the last window, by time in microseconds. ARGV: how many a window admits, its length in
-- milliseconds, and a name for this request.
-- Returns whether this one is admitted, how many were admitted in the window, and the milliseconds until the oldest leaves it.
local time = redis.call('TIME')
local now, window = time[1] * 1000000 + time[2], ARGV[2] * 1000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local used, admitted = redis.call('ZCARD', KEYS[1]), 0
if used < tonumber(ARGV[1]) then
	redis.call('ZADD', KEYS[1], now, ARGV[3])
	redis.call('PEXPIRE', KEYS[1], ARGV[2])
	used, admitted = used + 1, 1
end
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {admitted, used, math.ceil((tonumber(oldest[2]) + window - now) / 1000)}
