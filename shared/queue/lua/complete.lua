#!lua flags=allow-oom
-- End a job with its result; a job that was cancelled meanwhile ends cancelled.
--
-- ARGV  1 job id  2 worker id  3 fence  4 record ttl  5 the encoded result
-- Returns 1, or 0 when the lease was lost.

local id, worker, fence, ttl, result = unpack(ARGV)

local state = settle('complete', id, worker, fence)
if state == 'held' and not finish_if_cancelled(id, ttl) then
  finish(id, ttl, 'succeeded', 'result', result)
end
return state == 'lost' and 0 or 1
