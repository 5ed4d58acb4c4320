-- Ends a call.
--
-- KEYS: as above. ARGV: the end as JSON:
--   id, cost (-1: what was reserved), prompt, completion (tokens, 0: not known), inflight (the operator's limit, 0: none)
--   fault: '' an answer came, throttled, ill (by itself it gets well), broken (somebody has to act), other (of this
--   request), unknown
--   wait (that the endpoint asks for), class, text (of the fault), minute (shorter in tests),
--   money, model, user, windows ([[key, seconds], …]): as it began
-- Returns: what is charged, whether the record was there, and 'opened', 'closed' or ''.
local r = finish(call.id, call.cost >= 0 and call.cost or nil)
if not r then
  -- It was booked before: by this, whose answer was lost, or when its lease ran out. Or Redis has lost it, as it came back
  -- without its last moments.
  local charged = call.cost >= 0 and call.cost or call.money
  if redis.call('SET', endedKey(call.id), 1, 'NX', 'EX', 600) then
    for _, w in ipairs(call.windows) do
      redis.call('HINCRBY', w[1], 'spent', int(charged))
      redis.call('HINCRBY', w[1], 'by\n' .. call.model .. '\n' .. call.user, int(charged))
      redis.call('EXPIRE', w[1], int(2 * w[2] + 86400))
    end
  end
  return {int(charged), 0, ''}
end
redis.call('SET', endedKey(call.id), 1, 'EX', 600)
local charged, probe = r.cost, r.probe

local had = call.prompt + call.completion
if had > 0 then
  if redis.call('HEXISTS', tokens, call.id) == 1 then
    redis.call('HSET', tokens, call.id, int(had))
    redis.call('HINCRBY', state, 'tokens', int(had - r.about))
  end
  local p, c = unpack(redis.call('HMGET', learned, 'prompt', 'completion'))
  redis.call('HINCRBY', learned, 'n', 1)
  redis.call('HSET', learned, 'prompt', int(math.max(num(p), call.prompt)), 'completion', int(math.max(num(c), call.completion)))
  if call.cost > r.money then redis.call('HSET', learned, 'n', 0) end -- what was learned is wrong
  redis.call('EXPIRE', learned, 2592000)
end

local news = ''
local open = get('open_until') > 0
local limit = get('limit')
local asked = call.wait -- what the endpoint has asked for
if call.fault == 'throttled' then
  -- Calls that were in flight together are told together: that is once.
  local first = num(r.at) > get('wary_since')
  local times = math.max(1, get('throttled') + (first and 1 or 0))
  put('throttled', times)
  put('wary', 1)
  put('wary_since', now)
  -- The endpoint does not count what it refuses.
  redis.call('ZREM', log, call.id)
  redis.call('HINCRBY', state, 'tokens', int(-num(redis.call('HGET', tokens, call.id))))
  redis.call('HDEL', tokens, call.id)
  if first then -- after a pause the last minute says little
    local oldest, known = redis.call('ZRANGE', log, 0, 0, 'WITHSCORES')[2], get('rpm')
    local paused = not oldest or now - oldest < call.minute * 0.8
    put('rpm_least', paused and math.floor(known * 0.8) or 0)
  end
  -- What was taken in the last minute is the limit, unless it was one of a second or so.
  if call.wait >= call.minute / 12 or times >= 3 then
    put('rpm', math.max(1, redis.call('ZCARD', log), get('rpm_least')))
    put('rpm_at', now)
    put('rpm_step', 1)
  end
  if asked == 0 then asked = 1000000 * 2 ^ math.min(times - 1, 5) end
  -- Calls that were in flight together are one episode.
  if now > get('cut') + math.max(15000000, asked) then
    if limit == 0 then limit = (redis.call('ZCARD', leases) + 1) * 1000 end
    limit = math.max(2000, math.floor(limit * 0.8)) -- one may be of a process that has died
    put('limit', limit)
    put('cut', now)
  end
elseif call.fault == 'ill' then
  put('grow', now + 15000000)
elseif call.fault == '' then
  redis.call('HDEL', state, 'throttled')
  -- Each minute in which all of it was used tries one more, then two, four, …
  if get('rpm') > 0 and now > get('rpm_at') + call.minute then
    if get('rpm_used') > get('rpm_at') then
      put('rpm', get('rpm') + get('rpm_step'))
      put('rpm_step', 2 * get('rpm_step'))
      put('rpm_at', now)
    elseif now > get('rpm_at') + 10 * call.minute then
      redis.call('HDEL', state, 'rpm', 'rpm_at', 'rpm_step')
    end
  end
  local wary = get('wary') * 2
  if wary > 0 and wary < math.max(limit / 1000, 64) then
    put('wary', wary)
  else
    redis.call('HDEL', state, 'wary')
  end
  -- Only what was in use while the call was in flight grows.
  if limit > 0 and get('used') >= num(r.at) and now > get('grow') and (call.inflight == 0 or limit < call.inflight * 1000) then
    put('limit', limit + 1000000 / limit) -- one more when all of them have answered
  end
end
-- A 503 asks for this job to wait: that all do is the breaker's to say.
if asked > 0 and call.fault == 'throttled' then
  put('not_before', math.max(get('not_before'), now + math.min(asked, 10 * call.minute)))
end

if call.fault == 'ill' or call.fault == 'broken' then
  local fails = get('fails') + 1
  put('fails', fails)
  put('failed_at', now)
  redis.call('HSET', state, 'class', call.class, 'text', call.text)
  if probe or open or fails >= 10 or call.fault == 'broken' then
    if not open then
      news = 'opened'
      put('opened', now)
    end
    if probe or not open then
      put('ill', call.fault == 'ill' and 1 or 0)
      -- What passes by itself is asked again as long after as it has lasted: most outages are short.
      local pause = call.minute
      if call.fault == 'ill' then pause = math.min(pause, math.max(call.minute / 12, now - get('opened'))) end
      put('open_until', now + math.min(math.max(pause, call.wait), 10 * call.minute))
    end
  end
elseif call.fault ~= 'unknown' then -- it answers
  redis.call('HDEL', state, 'fails')
  if call.fault ~= 'throttled' then put('good', now) end
  -- After what somebody has to mend, calls that were in flight before prove nothing.
  local mended = probe or call.fault == '' and (get('ill') == 1 or num(r.at) > get('opened'))
  if open and mended then
    redis.call('HDEL', state, 'open_until', 'opened', 'ill', 'class', 'text')
    news = 'closed'
  end
end
redis.call('EXPIRE', state, 604800)
return {int(charged), 1, news}
