#!lua flags=allow-oom
-- End a job with an error, or have it run again later while attempts are left; one that was cancelled
-- meanwhile ends cancelled.
--
-- ARGV  1 job id  2 worker id  3 fence  4 record ttl  5 the encoded error
--       6 how many attempts it may have: 0 for an error that would come again
--       7 seconds until the next attempt  8 seconds to keep a job that is given up  9 most of these
-- Returns 1, or 0 when the lease was lost.

local id, worker, fence, ttl, problem, attempts, delay, dead_ttl, most_dead = unpack(ARGV)

local state = settle('fail', id, worker, fence)
if state == 'held' and not finish_if_cancelled(id, ttl) then
  if tonumber(attempts) == 0 then
    finish(id, ttl, 'failed', 'error', problem)
  elseif tonumber(redis.call('HGET', JOB .. id, 'attempts')) < tonumber(attempts) then
    put_back(id, tonumber(delay) > 0 and delay or nil)
    mark_work()
  else
    bury(id, dead_ttl, most_dead, ttl, problem)
  end
end
return state == 'lost' and 0 or 1
