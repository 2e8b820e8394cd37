-- What the scripts of the queue share; `scripts.py` puts it below the header of each.
--
-- KEYS  1 ready  2 age  3 active  4 meta  5 wake     (keys.py says what each holds)
--       6 job:                                       what a record's key begins with
--       7 done  8 control                            channels; here so that they share the slot
--       9 deadlines  10 delayed  11 dead  12 tags  13 tenants  14 overtakers
--       15 adapter:  16 deaths:  17 idempotency:     what the keys of an affinity and of a digest begin with
--       18 routers
-- A job's id is in ready, age and its adapter's set while it waits, in delayed while its next attempt is
-- not due (in deadlines in both cases), in active while it runs, in dead when it was given up.

local READY, AGE, ACTIVE, META, WAKE, JOB, DONE, CONTROL, DEADLINES, DELAYED, DEAD, TAGS, TENANTS,
  OVERTAKERS, ADAPTER, DEATHS, IDEMPOTENCY, ROUTERS = unpack(KEYS)

local PRIORITIES = 3
-- Scores of one priority: 2^50 units of virtual time, some 10^10 images. Doubles are exact up to 2^53.
local SPAN = 2 ^ 50
-- Steps x pixels in one unit of virtual time.
local UNIT = 1000
-- What an average job is taken for before one has ended: 30 steps of 512 x 512.
local FIRST_WORK = 30 * 512 * 512
-- The part of a new measurement in a moving average.
local NOVELTY = 0.1
-- Jobs that were given up and leave when one more is: several, so that a lower limit is reached in the end, and
-- not all, so that no call holds up the server.
local MOST_UNBURIED = 64

-- The server's time in seconds, the only clock of the queue.
local function server_time()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end

-- A whole number as text: Lua's own conversion keeps 14 digits.
local function digits(number)
  return string.format('%.0f', number)
end

local function meta(field)
  return tonumber(redis.call('HGET', META, field) or 0)
end

-- The work of an average job, in units of virtual time.
local function average_load()
  local work = meta('work')
  return (work > 0 and work or FIRST_WORK) / UNIT
end

-- Whether this very attempt runs the job.
local function is_held(id, worker, fence)
  local job = redis.call('HMGET', JOB .. id, 'status', 'worker', 'fence')
  return job[1] == 'running' and job[2] == worker and job[3] == fence
end

-- Begin what a worker's `act` does to the end of its attempt: 'held', 'lost', or 'done' when this
-- attempt did it before and only the reply was lost.
local function settle(act, id, worker, fence)
  local mark = act .. ':' .. fence
  if redis.call('HGET', JOB .. id, 'settled') == mark then return 'done' end
  if not is_held(id, worker, fence) then return 'lost' end
  redis.call('HSET', JOB .. id, 'settled', mark)
  return 'held'
end

-- Have the marker lie there exactly while jobs may be claimed. Each claim lays it again: one wakes the next.
local function mark_work()
  if redis.call('EXISTS', READY) == 1 and redis.call('HGET', META, 'mode') ~= 'paused' then
    redis.call('ZADD', WAKE, 0, 'work')
  else
    redis.call('DEL', WAKE)
  end
end

-- Put a job among those that wait, in its place.
local function join_ready(id)
  local job = redis.call('HMGET', JOB .. id, 'place', 'enqueued_at', 'affinity')
  redis.call('ZADD', READY, job[1], id)
  redis.call('ZADD', AGE, job[2], id)
  redis.call('ZADD', ADAPTER .. job[3], job[1], id)
end

-- Have the jobs of a router be wanted for so many seconds from now.
local function attend(router, seconds)
  redis.call('ZADD', ROUTERS, server_time() + seconds, router)
end

-- Count a job among what its tenant and the base have waiting, now or delayed.
local function count_in(id)
  local job = redis.call('HMGET', JOB .. id, 'tenant', 'cost', 'deadline')
  redis.call('ZADD', DEADLINES, job[3], id)
  redis.call('HINCRBY', TENANTS, job[1], 1)
  redis.call('HINCRBY', META, 'backlog', job[2])
end

-- Take a job from wherever it waits, if it does. When nothing waits any more, all debts are forgotten.
local function leave(id)
  redis.call('ZREM', READY, id)
  redis.call('ZREM', AGE, id)
  redis.call('ZREM', DELAYED, id)
  if redis.call('ZREM', DEADLINES, id) == 0 then return end
  local job = redis.call('HMGET', JOB .. id, 'tenant', 'cost', 'affinity')
  if job[1] then -- false when the record was lost
    redis.call('ZREM', ADAPTER .. job[3], id)
    redis.call('HINCRBY', META, 'backlog', digits(-job[2]))
    if redis.call('HINCRBY', TENANTS, job[1], -1) <= 0 then redis.call('HDEL', TENANTS, job[1]) end
  end
  if redis.call('EXISTS', DEADLINES) == 0 then
    redis.call('DEL', TENANTS, TAGS, OVERTAKERS)
    redis.call('HSET', META, 'backlog', 0)
  end
end

-- Write the end of a job, wherever it is.
local function close(id, ttl, status, ...)
  leave(id)
  redis.call('ZREM', ACTIVE, id)
  redis.call('HSET', JOB .. id, 'status', status, 'finished_at', server_time(), ...)
  redis.call('HDEL', JOB .. id, 'token')
  redis.call('EXPIRE', JOB .. id, ttl)
  redis.call('PUBLISH', DONE, id)
end

-- End a job: its record stays for `ttl` seconds, without what was asked for.
local function finish(id, ttl, status, ...)
  redis.call('HDEL', JOB .. id, 'job')
  close(id, ttl, status, ...)
end

-- Give a job up: it ends as failed, and is kept for the operator, who may have it run again. The caller's
-- token is not kept. Of more than `most` the oldest end as any other job does: for the operator they are gone.
local function bury(id, dead_ttl, most, ttl, problem)
  local now = server_time()
  close(id, dead_ttl, 'failed', 'error', problem)
  redis.call('ZADD', DEAD, now, id)
  redis.call('ZREMRANGEBYSCORE', DEAD, '-inf', now - dead_ttl)
  local beyond = math.min(redis.call('ZCARD', DEAD) - most, MOST_UNBURIED)
  if beyond <= 0 then return end
  for _, old in ipairs(redis.call('ZRANGE', DEAD, 0, beyond - 1)) do
    redis.call('ZREM', DEAD, old)
    redis.call('HDEL', JOB .. old, 'job')
    redis.call('EXPIRE', JOB .. old, ttl)
  end
end

-- End a running job as cancelled if somebody cancelled it; false otherwise.
local function finish_if_cancelled(id, ttl)
  if redis.call('HEXISTS', JOB .. id, 'cancelled') == 0 then return false end
  finish(id, ttl, 'cancelled')
  return true
end

-- Have a running job wait again, in its old place; with a `delay` in seconds, only after it.
local function put_back(id, delay)
  redis.call('HSET', JOB .. id, 'status', 'queued')
  redis.call('HDEL', JOB .. id, 'started_at', 'step', 'total')
  redis.call('ZREM', ACTIVE, id)
  count_in(id)
  if delay then
    redis.call('ZADD', DELAYED, server_time() + delay, id)
  else
    join_ready(id)
  end
end

-- The range of scores of one priority, from 0 for the highest.
local function span(priority)
  return digits(priority * SPAN), '(' .. digits((priority + 1) * SPAN)
end

-- The virtual time of a priority: where its head was when a job was last claimed from it.
local function virtual_time(priority)
  return math.max(meta('virtual:' .. priority), priority * SPAN)
end

-- What a job takes of its tenant's share, in virtual time.
local function charge(load, weight)
  return math.max(1, math.ceil(load / weight))
end

-- The next score of a tenant within a priority: behind its other jobs, and behind what was served.
local function next_place(priority, tenant, load, weight)
  local name = priority .. ':' .. tenant
  local before = tonumber(redis.call('ZSCORE', TAGS, name) or 0)
  local place = math.max(virtual_time(priority), before) + charge(load, weight)
  redis.call('ZADD', TAGS, digits(place), name)
  return digits(place)
end

-- Give a tenant back what it was charged for a job that no worker has run, unless its turn had come: then the
-- charge is paid already.
local function refund(id)
  local job = redis.call('HMGET', JOB .. id, 'attempts', 'priority', 'tenant', 'load', 'weight', 'place')
  local virtual = virtual_time(job[2])
  if job[1] ~= '0' or tonumber(job[6]) <= virtual then return end
  local name = job[2] .. ':' .. job[3]
  local before = redis.call('ZSCORE', TAGS, name)
  if not before then return end
  local after = before - charge(job[4], job[5])
  if after > virtual then
    redis.call('ZADD', TAGS, digits(after), name)
  else
    redis.call('ZREM', TAGS, name)
  end
end

-- End a job that is not running; one that never was costs its tenant nothing.
local function withdraw(id, ttl, status, ...)
  refund(id)
  finish(id, ttl, status, ...)
end

-- Whether a waiting job's record is there. One whose record was lost leaves.
local function is_whole(id)
  if redis.call('EXISTS', JOB .. id) == 1 then return true end
  leave(id)
  return false
end

-- Whether these adapters were on so many workers that died: then no further one is given them.
local function is_in_quarantine(affinity, most)
  return redis.call('ZCARD', DEATHS .. affinity) >= most
end

-- End waiting jobs whose time is over, a bounded number of them; return how many.
local function end_overdue(now, bound, ttl, expired)
  local overdue = redis.call('ZRANGE', DEADLINES, '-inf', now, 'BYSCORE', 'LIMIT', 0, bound)
  for _, id in ipairs(overdue) do
    if is_whole(id) then withdraw(id, ttl, 'failed', 'error', expired) end
  end
  return #overdue
end
