-- What the scripts of the queue share; `scripts.py` puts it below the header of each.
--
-- KEYS  1 ready  2 age  3 active  4 meta  5 wake     the sorted sets and the counters (keys.py)
--       6 job:                                       what a record's key begins with
--       7 done  8 control                            channels; here so that they share the slot
-- A job's id is its member in ready, age or active: in ready and age while it is queued, in active
-- while it runs, in none once it has ended.

local READY, AGE, ACTIVE, META, WAKE, JOB, DONE, CONTROL = unpack(KEYS)

-- The server's time in seconds, the only clock of the queue.
local function server_time()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
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

-- Have the marker lie there exactly while jobs wait. Each claim lays it again: one wakes the next.
local function mark_work()
  if redis.call('EXISTS', READY) == 1 then
    redis.call('ZADD', WAKE, 0, 'work')
  else
    redis.call('DEL', WAKE)
  end
end

-- End a job: its record stays for `ttl` seconds, without what was asked for.
local function finish(id, ttl, status, ...)
  redis.call('ZREM', READY, id)
  redis.call('ZREM', AGE, id)
  redis.call('ZREM', ACTIVE, id)
  redis.call('HSET', JOB .. id, 'status', status, 'finished_at', server_time(), ...)
  redis.call('HDEL', JOB .. id, 'job')
  redis.call('EXPIRE', JOB .. id, ttl)
  redis.call('PUBLISH', DONE, id)
end

-- End a running job as cancelled if somebody cancelled it; false otherwise.
local function finish_if_cancelled(id, ttl)
  if redis.call('HEXISTS', JOB .. id, 'cancelled') == 0 then return false end
  finish(id, ttl, 'cancelled')
  return true
end

-- Have a running job wait again, in its old place.
local function put_back(id)
  local job = redis.call('HMGET', JOB .. id, 'place', 'enqueued_at')
  redis.call('HSET', JOB .. id, 'status', 'queued')
  redis.call('HDEL', JOB .. id, 'started_at', 'step', 'total')
  redis.call('ZREM', ACTIVE, id)
  redis.call('ZADD', READY, job[1], id)
  redis.call('ZADD', AGE, job[2], id)
end
