#!lua flags=allow-oom
-- Take back the jobs of leases that have run out: to their old place, or to their end.
--
-- ARGV  1 most jobs in one call  2 crashes after which a job fails  3 record ttl
--       4 the encoded error of an expired job  5 the encoded error of a job that crashed too often
-- Returns how many leases it ended.

local bound, most_crashes, ttl, expired, crashed = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local now = server_time()

local function take_back(id)
  local deadline = tonumber(redis.call('HGET', JOB .. id, 'deadline') or 0)
  if deadline == 0 then -- even its record has expired
    redis.call('ZREM', ACTIVE, id)
    return
  end
  local crashes = redis.call('HINCRBY', JOB .. id, 'crashes', 1)
  if finish_if_cancelled(id, ttl) then return end
  if deadline <= now then
    finish(id, ttl, 'failed', 'error', expired)
  elseif crashes >= most_crashes then
    finish(id, ttl, 'failed', 'error', crashed)
  else
    put_back(id)
  end
end

local overdue = redis.call('ZRANGE', ACTIVE, '-inf', now, 'BYSCORE', 'LIMIT', 0, bound)
for _, id in ipairs(overdue) do take_back(id) end
mark_work()
return #overdue
