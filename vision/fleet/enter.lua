-- Lets a call begin, or says what is in the way.
--
-- KEYS: as above, 7 the leases of the user (zset), 8 the names of all endpoints (set). ARGV: the call as JSON:
--   id, endpoint (its name), retried (its job has paid for a call that gave no answer, and this is its last),
--   lease (how long until its process is taken for dead), late (how much of that is after its time-out),
--   rpm, tpm, inflight, peruser (0: no limit), prompt and completion (the most tokens), last (the job pays for no other call), learn (whether a prompt's tokens are learned), pin, pout (prices), model, user,
--   budgets ([[seconds, money], …]), minute (shorter in tests)
-- Returns: what, for how long, then
--   go: the money that is reserved, and in which windows     not-before, rpm, tpm, busy, user, money: nothing
--   open, silent: the class and the text of the fault     budget: what is spent and reserved, and the window in seconds
local window = math.floor(call.minute * 1.004) -- and what calls may take to get there

sweep()
while true do
  local old = redis.call('ZRANGEBYSCORE', log, '-inf', int(now - window), 'LIMIT', 0, 1000)
  if #old == 0 then break end
  local sum = 0
  for _, n in ipairs(redis.call('HMGET', tokens, unpack(old))) do sum = sum + num(n) end
  redis.call('HINCRBY', state, 'tokens', int(-sum))
  redis.call('HDEL', tokens, unpack(old))
  redis.call('ZREM', log, unpack(old))
end

if redis.call('EXISTS', endedKey(call.id)) == 1 then return {'busy', 100000} end -- nobody waits for it any more
local had = redis.call('HGET', records, call.id) -- the answer of the first try was lost
if had then
  local r = cjson.decode(had)
  return {'go', 0, int(r.money), unpack(r.windows)}
end

local wait = get('not_before') - now
if wait > 0 then return {'not-before', int(wait)} end

local probe = false
local open = get('open_until')
if open > 0 then
  -- A probe may be lost: a job that has only this call is none, unless there has been no other for long.
  if open <= now and call.last and now - get('opened') < 10 * call.minute then open = now + call.minute end
  if open > now then
    return {'open', int(open - now), redis.call('HGET', state, 'class'), redis.call('HGET', state, 'text')}
  end
  probe = true
elseif call.retried and get('fails') > 0 and now - get('failed_at') < 10 * call.minute then
  -- It is the last call of its job: it waits until the endpoint has answered somebody, as the next fault would end the job.
  return {'silent', int(call.minute), redis.call('HGET', state, 'class'), redis.call('HGET', state, 'text')}
end

-- How many may be in flight. After a pause, few at first, since a key that the endpoint does not know it refuses at
-- once. A call that is over its time is none: its process has died.
local inflight = redis.call('ZCOUNT', leases, int(now + call.late), '+inf')
local limit, step = get('limit') / 1000, 100000
if limit > 0 then
  limit = math.max(1, math.floor(limit))
elseif now - get('good') > call.minute / 6 then
  local from = get('ramp')
  if from == 0 or inflight == 0 then
    from = now
    put('ramp', now)
    redis.call('EXPIRE', state, 604800)
  end
  local ms = (now - from) / 1000
  limit = ms < 300 and 4 or ms < 500 and 8 or ms < 700 and 64 or ms < 900 and 512 or 1000000
else
  limit = 1000000
end
if call.inflight > 0 then limit = math.min(limit, call.inflight) end
if inflight >= limit then return {'busy', int(step)} end
-- After a 429 one call asks first, and with each answer twice as many may: of those that began since, as a process may
-- have died before.
local wary = get('wary')
if wary > 0 and redis.call('ZCOUNT', leases, '(' .. int(math.max(get('wary_since') + call.lease, now + call.late)), '+inf') >= wary then
  return {'busy', int(step)}
end

if call.peruser > 0 and call.user ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', int(now))
  if redis.call('ZCOUNT', KEYS[7], int(now + call.late), '+inf') >= call.peruser then return {'user', int(step)} end
end

-- What the call may have, by what others had.
local seen, most_p, most_c = unpack(redis.call('HMGET', learned, 'n', 'prompt', 'completion'))
seen = num(seen)
local prompt, completion = call.prompt, call.completion
if seen >= 5 then
  local margin = 1 + 4 / math.sqrt(seen)
  if call.learn then prompt = math.min(prompt, math.ceil(num(most_p) * margin)) end
  completion = math.min(completion, math.ceil(num(most_c) * margin))
end

local count = redis.call('ZCARD', log)
local rpm = call.rpm
if rpm == 0 then rpm = get('rpm') end -- what was found out
if rpm > 0 then
  if count >= rpm then
    put('rpm_used', now)
    local first = redis.call('ZRANGE', log, 0, 0, 'WITHSCORES')
    return {'rpm', int(first[2] + window - now)}
  end
  if 2 * count >= rpm then -- no bursts when the limit is near
    local last = redis.call('ZRANGE', log, -1, -1, 'WITHSCORES')
    local gap = last[2] + call.minute * 0.8 / rpm - now
    if gap > 0 then return {'rpm', int(gap)} end
  end
end
local about = prompt + completion -- of a minute
if seen >= 5 then about = math.min(about, num(most_p) + num(most_c)) end
if call.tpm > 0 and count > 0 and get('tokens') + about > call.tpm then
  local first = redis.call('ZRANGE', log, 0, 0, 'WITHSCORES')
  return {'tpm', int(math.max(first[2] + window - now, step))}
end

-- Money.
local money = math.ceil((prompt * call.pin + completion * call.pout) / 1000000)
local windows = {}
for i, b in ipairs(call.budgets) do
  local seconds, amount = b[1], b[2]
  local index = math.floor(now / 1000000 / seconds)
  windows[i] = 'ratelimit:budget:' .. int(seconds) .. ':' .. int(index)
  local spent, reserved = unpack(redis.call('HMGET', windows[i], 'spent', 'reserved'))
  spent, reserved = num(spent), num(reserved)
  if spent + money > amount then
    if reserved > 0 then return {'money', int(step)} end -- some of it may come back
    -- Nothing is known yet, and the budget is smaller than what a call may cost: the first ones go alone.
    if seen >= 5 or money <= amount or 2 * spent > amount then
      -- They come again one behind the other; each looks once an hour.
      local behind = redis.call('HINCRBY', windows[i], 'waiting ' .. int(math.floor(now / 3600000000)), 1)
      redis.call('EXPIRE', windows[i], int(2 * seconds + 86400))
      return {'budget', int((index + 1) * seconds * 1000000 - now + behind * 10000), int(spent), int(seconds)}
    end
    money = amount - spent
  end
end
for i, b in ipairs(call.budgets) do
  redis.call('HINCRBY', windows[i], 'spent', int(money))
  redis.call('HINCRBY', windows[i], 'reserved', int(money))
  redis.call('HINCRBY', windows[i], 'for\n' .. call.model .. '\n' .. call.user, int(money))
  redis.call('EXPIRE', windows[i], int(2 * b[1] + 86400))
end

if inflight + 1 >= 0.8 * limit then put('used', now) end
if probe then put('open_until', now + call.minute) end -- the next one, should this die
redis.call('SADD', KEYS[8], call.endpoint)
redis.call('EXPIRE', KEYS[8], 2592000)
redis.call('ZADD', leases, int(now + call.lease), call.id)
redis.call('ZADD', log, int(now), call.id)
redis.call('HSET', tokens, call.id, int(about))
redis.call('HINCRBY', state, 'tokens', int(about))
if call.user ~= '' then
  redis.call('ZADD', KEYS[7], int(now + call.lease), call.id)
  redis.call('EXPIRE', KEYS[7], 86400)
end
redis.call('HSET', records, call.id, cjson.encode({
  money = money, about = about, model = call.model, user = call.user, userkey = KEYS[7], windows = windows, probe = probe, at = int(now)}))
for i = 1, 5 do redis.call('EXPIRE', KEYS[i], 604800) end
return {'go', 0, int(money), unpack(windows)}
