#!lua flags=allow-oom
-- Give a job back as if it had not been claimed; one that was cancelled meanwhile ends cancelled.
--
-- ARGV  1 job id  2 worker id  3 fence  4 record ttl
-- Returns 1, or 0 when the lease was lost.

local id, worker, fence, ttl = unpack(ARGV)

local state = settle('release', id, worker, fence)
if state == 'held' and not finish_if_cancelled(id, ttl) then
  redis.call('HINCRBY', JOB .. id, 'attempts', -1)
  put_back(id)
  mark_work()
end
return state == 'lost' and 0 or 1
