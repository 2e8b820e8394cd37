#!lua flags=allow-oom
-- End a job with its result; a job that was cancelled meanwhile ends cancelled.
--
-- ARGV  1 job id  2 worker id  3 fence  4 record ttl  5 the encoded result
--       6 seconds of work that it took  7 work: its steps x pixels
-- Returns 1, or 0 when the lease was lost.

local id, worker, fence, ttl, result, seconds, work = unpack(ARGV)

local function learn(field, value)
  local before = meta(field)
  redis.call('HSET', META, field, before > 0 and before + NOVELTY * (value - before) or value)
end

local state = settle('complete', id, worker, fence)
if state == 'held' and not finish_if_cancelled(id, ttl) then
  learn('mean', tonumber(seconds))
  learn('work', tonumber(work))
  learn('pace', seconds / work)
  redis.call('DEL', DEATHS .. redis.call('HGET', JOB .. id, 'affinity'))
  finish(id, ttl, 'succeeded', 'result', result)
end
return state == 'lost' and 0 or 1
