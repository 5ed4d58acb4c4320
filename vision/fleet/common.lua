-- What both scripts need. All times are microseconds since 1970, by the clock of Redis; money is in millionths of a
-- US dollar.
--
-- KEYS of one endpoint: 1 state (hash), 2 log (zset: call -> begin), 3 tokens (hash: call -> tokens of the log),
-- 4 leases (zset: call -> when its process is taken for dead), 5 records (hash: call -> JSON); of a kind of
-- call: 6 learned (hash).
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local call = cjson.decode(ARGV[1])
local state, log, tokens, leases, records, learned = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

local function num(v) return tonumber(v or 0) or 0 end
local function int(v) return string.format('%.0f', v) end
local function get(name) return num(redis.call('HGET', state, name)) end
local function put(name, v) redis.call('HSET', state, name, int(v)) end

-- finish ends a call: its place is free, and it has cost so much; nil: what was reserved. It returns the record,
-- nil if the call had ended before.
local function finish(id, cost)
  local doc = redis.call('HGET', records, id)
  redis.call('ZREM', leases, id)
  if not doc then return nil end
  redis.call('HDEL', records, id)
  local r = cjson.decode(doc)
  if r.user ~= '' then redis.call('ZREM', r.userkey, id) end
  cost = cost or r.money
  for _, w in ipairs(r.windows) do
    if redis.call('EXISTS', w) == 1 then
      redis.call('HINCRBY', w, 'spent', int(cost - r.money))
      redis.call('HINCRBY', w, 'reserved', int(-r.money))
      redis.call('HINCRBY', w, 'by\n' .. r.model .. '\n' .. r.user, int(cost))
      redis.call('HINCRBY', w, 'for\n' .. r.model .. '\n' .. r.user, int(-r.money))
    end
  end
  r.cost = cost
  return r
end

-- endedKey says that a call has ended, for those who do not know, or ask twice.
local function endedKey(id) return state .. ':ended:' .. id end

-- sweep ends the calls of processes that have died: as what was reserved for them.
local function sweep()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', int(now), 'LIMIT', 0, 100)) do
    finish(id)
    redis.call('SET', endedKey(id), 1, 'EX', 86400)
  end
end
