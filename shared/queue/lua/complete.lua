#!lua flags=allow-oom
-- End a job with its result; a job that was cancelled meanwhile ends cancelled.
--
-- ARGV  1 job id  2 worker id  3 fence  4 record ttl  5 the encoded result
--       6 seconds of work that it took  7 work: its steps x pixels
-- Returns 1, or 0 when the lease was lost.

local id, worker, fence, ttl, result, seconds, work = unpack(ARGV)

-- Some 60 ms, once. No call holds up the server: where more wait they stay where they are.
local MOST_PLACED_ANEW = 2000

local function learn(field, value)
  local before = meta(field)
  redis.call('HSET', META, field, before > 0 and before + NOVELTY * (value - before) or value)
end

-- Jobs that leave their work open were placed by a guess while nothing was measured. All that follow are placed
-- at another rate, and would pass them again and again if the guess was too large: so each gets the place
-- that it would have now, in the old order. Once in the life of a base.
local function place_anew()
  if redis.call('ZCARD', DEADLINES) > MOST_PLACED_ANEW then return end
  redis.call('DEL', TAGS, OVERTAKERS)
  local jobs = {}
  for _, key in ipairs({READY, DELAYED, ACTIVE}) do
    for _, other in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      local job = redis.call('HMGET', JOB .. other, 'place', 'priority', 'tenant', 'load', 'weight')
      local place = tonumber(job[1] or 0)
      -- what was given back stands before all others, and stays there
      if place > virtual_time(job[2] or 0) then jobs[#jobs + 1] = {other, place, unpack(job, 2)} end
    end
  end
  table.sort(jobs, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  for _, job in ipairs(jobs) do
    local other, priority, tenant, load, weight = job[1], job[3], job[4], tonumber(job[5]), job[6]
    if load == FIRST_WORK / UNIT then load = average_load() end
    redis.call('HSET', JOB .. other, 'load', load, 'place', next_place(priority, tenant, load, weight))
    if redis.call('ZSCORE', READY, other) then join_ready(other) end
  end
end

local state = settle('complete', id, worker, fence)
if state == 'held' and not finish_if_cancelled(id, ttl) then
  local is_first = meta('work') == 0
  learn('mean', tonumber(seconds))
  learn('work', tonumber(work))
  learn('pace', seconds / work)
  redis.call('DEL', CRASHES .. redis.call('HGET', JOB .. id, 'affinity'))
  finish(id, ttl, 'succeeded', 'result', result)
  if is_first then place_anew() end
end
return state == 'lost' and 0 or 1
