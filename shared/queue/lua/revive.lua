#!lua
-- Have a job that was given up run once more, as if it came now. Its caller's token is gone.
--
-- ARGV  1 job id
-- Returns 1, or 0 when no such job was given up.

local id = ARGV[1]

if redis.call('ZREM', DEAD, id) == 0 or redis.call('EXISTS', JOB .. id) == 0 then return 0 end
local job = redis.call('HMGET', JOB .. id, 'priority', 'tenant', 'load', 'weight', 'timeout', 'affinity')
local now = server_time()
redis.call('DEL', DEATHS .. job[6])
redis.call('HSET', JOB .. id, 'status', 'queued', 'enqueued_at', now, 'deadline', now + job[5],
  'attempts', 0, 'crashes', 0, 'place', next_place(job[1], job[2], job[3], job[4]))
redis.call('HDEL', JOB .. id, 'router', 'error', 'finished_at', 'started_at', 'step', 'total')
redis.call('PERSIST', JOB .. id)
count_in(id)
join_ready(id)
mark_work()
return 1
