#!lua flags=allow-oom
-- Take back the jobs of leases that have run out: to their old place, or to their end. A worker that died
-- counts against the job, and against its adapters: one set that kills worker after worker is not run on.
-- Jobs that waited beyond their time are ended as well, a bounded number: where no worker is left, nobody
-- claims, and this is all that is done.
--
-- ARGV  1 most jobs in one call  2 crashes after which a job is given up  3 record ttl
--       4 the encoded error of an expired job  5 the encoded error of a job that crashed too often
--       6 seconds to keep a job that is given up  7 most of these  8 seconds that crashes are counted
-- Returns how many leases and jobs it ended.

local bound, most_crashes, ttl, expired, crashed = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local dead_ttl, most_dead, quarantine = ARGV[6], ARGV[7], ARGV[8]
local now = server_time()

-- One death, however many jobs of these adapters the worker held.
local function blame(affinity, worker)
  if affinity == '' then return end -- the bare base
  redis.call('ZADD', DEATHS .. affinity, now, worker)
  redis.call('EXPIRE', DEATHS .. affinity, quarantine)
end

local function take_back(id)
  local job = redis.call('HMGET', JOB .. id, 'deadline', 'affinity', 'worker')
  if not job[1] then -- its record was lost
    redis.call('ZREM', ACTIVE, id)
    return
  end
  blame(job[2], job[3])
  local crashes = redis.call('HINCRBY', JOB .. id, 'crashes', 1)
  if finish_if_cancelled(id, ttl) then return end
  if tonumber(job[1]) <= now then
    finish(id, ttl, 'failed', 'error', expired)
  elseif crashes >= most_crashes then
    bury(id, dead_ttl, most_dead, ttl, crashed)
  else
    put_back(id)
  end
end

local overdue = redis.call('ZRANGE', ACTIVE, '-inf', now, 'BYSCORE', 'LIMIT', 0, bound)
for _, id in ipairs(overdue) do take_back(id) end
local ended = end_overdue(now, bound, ttl, expired)
mark_work()
return #overdue + ended
