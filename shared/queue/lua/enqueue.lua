#!lua
-- Add a job, unless its id is known or the queue is full.
--
-- ARGV  1 job id  2 the encoded job  3 its timeout  4 most waiting jobs  5 record ttl
-- Returns 'added', 'known' or 'full'.

local id, job, timeout, most, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

if redis.call('EXISTS', JOB .. id) == 1 then return 'known' end
if redis.call('ZCARD', READY) >= most then return 'full' end

local now = server_time()
local place = redis.call('HINCRBY', META, 'sequence', 1)
redis.call('HSET', JOB .. id,
  'status', 'queued', 'job', job, 'place', place, 'enqueued_at', now, 'deadline', now + timeout,
  'attempts', 0, 'crashes', 0)
redis.call('EXPIRE', JOB .. id, math.ceil(timeout) + ttl)
redis.call('ZADD', READY, place, id)
redis.call('ZADD', AGE, now, id)
mark_work()
return 'added'
