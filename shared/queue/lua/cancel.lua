#!lua flags=allow-oom
-- Cancel a job: a waiting one ends now, the worker of a running one is told, an ended one stays. One that only
-- seemed unwanted is so from now on.
--
-- ARGV  1 job id  2 record ttl

local id, ttl = ARGV[1], ARGV[2]

local status = redis.call('HGET', JOB .. id, 'status')
if status == 'queued' then
  withdraw(id, ttl, 'cancelled')
  mark_work()
elseif status == 'running' then
  redis.call('HSET', JOB .. id, 'cancelled', 1)
  redis.call('PUBLISH', CONTROL, id)
elseif status == 'cancelled' then
  redis.call('HDEL', JOB .. id, 'unwanted')
end
return nil
