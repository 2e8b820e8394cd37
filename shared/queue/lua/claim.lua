#!lua flags=allow-oom
-- Give the first waiting job to a worker. The same token gets the same answer again.
--
-- KEYS  9 worker: the last claim of this worker
-- ARGV  1 worker id  2 claim token  3 lease seconds  4 seconds to remember the claim
--       5 record ttl  6 the encoded error of an expired job  7 most expired jobs to end in one call
-- Returns {job id, encoded job, fence, attempt}, or nil.

local LAST = KEYS[9]
local worker, token, lease, memory, ttl, expired, bound = unpack(ARGV)

local function answer(id, fence)
  local job = redis.call('HMGET', JOB .. id, 'job', 'attempts')
  return {id, job[1], tonumber(fence), tonumber(job[2])}
end

local last = redis.call('HMGET', LAST, 'token', 'job', 'fence')
if last[1] == token and is_held(last[2], worker, last[3]) then return answer(last[2], last[3]) end

-- Above every earlier fence, also above those that were given before the server lost its data.
local function next_fence(now)
  local before = tonumber(redis.call('HGET', META, 'fence') or 0)
  local fence = string.format('%.0f', math.max(before + 1, math.floor(now * 1000000)))
  redis.call('HSET', META, 'fence', fence)
  return fence
end

local function take(id, now)
  local fence = next_fence(now)
  redis.call('ZREM', READY, id)
  redis.call('ZREM', AGE, id)
  redis.call('ZADD', ACTIVE, now + lease, id)
  redis.call('HSET', JOB .. id, 'status', 'running', 'worker', worker, 'fence', fence, 'started_at', now)
  redis.call('HINCRBY', JOB .. id, 'attempts', 1)
  redis.call('HSET', LAST, 'token', token, 'job', id, 'fence', fence)
  redis.call('EXPIRE', LAST, memory)
  mark_work()
  return answer(id, fence)
end

local now = server_time()
for _ = 1, bound do
  local id = redis.call('ZRANGE', READY, 0, 0)[1]
  if not id then break end
  local deadline = tonumber(redis.call('HGET', JOB .. id, 'deadline') or 0)
  if deadline > now then return take(id, now) end
  if deadline > 0 then
    finish(id, ttl, 'failed', 'error', expired)
  else -- even its record has expired
    redis.call('ZREM', READY, id)
    redis.call('ZREM', AGE, id)
  end
end
mark_work()
return nil
