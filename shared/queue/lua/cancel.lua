#!lua flags=allow-oom
-- Cancel a job: a waiting one ends now, the worker of a running one is told, an ended one stays.
--
-- ARGV  1 job id  2 record ttl

local id, ttl = ARGV[1], ARGV[2]

local status = redis.call('HGET', JOB .. id, 'status')
if status == 'queued' then
  finish(id, ttl, 'cancelled')
  mark_work()
elseif status == 'running' then
  redis.call('HSET', JOB .. id, 'cancelled', 1)
  redis.call('PUBLISH', CONTROL, id)
end
return nil
