#!lua flags=allow-oom
-- End a job with an error, or have it wait again while attempts are left; one that was cancelled
-- meanwhile ends cancelled.
--
-- ARGV  1 job id  2 worker id  3 fence  4 record ttl  5 the encoded error
--       6 how many attempts it may have: 0 for an error that would come again
-- Returns 1, or 0 when the lease was lost.

local id, worker, fence, ttl, problem, attempts = unpack(ARGV)

local state = settle('fail', id, worker, fence)
if state == 'held' and not finish_if_cancelled(id, ttl) then
  if tonumber(redis.call('HGET', JOB .. id, 'attempts')) < tonumber(attempts) then
    put_back(id)
    mark_work()
  else
    finish(id, ttl, 'failed', 'error', problem)
  end
end
return state == 'lost' and 0 or 1
