#!lua
-- Add a job, unless it is known already or may not be added. One that was cancelled only because its router
-- seemed to be gone is wanted after all: it waits again, in its old place, until its old deadline.
--
-- ARGV  1 job id  2 the encoded job  3 the caller's sealed token, or ''  4 its timeout
--       5 priority, from 0  6 tenant  7 its weight  8 work: steps x pixels, 0 when that is left open
--       9 affinity  10 workers that may die with the same adapters
--       11 digest of the idempotency key, or ''  12 digest of the request  13 seconds to remember the key
--       14 most waiting jobs  15 most of one tenant  16 record ttl  17 the encoded error of an expired job
--       18 most expired jobs to end in one call  19 the router that alone wants it, or ''
--       20 seconds for which that holds  21 '1' to ask only: the answer, and no job
-- Returns {what happened, job id, seconds of work that wait}; for 'quarantined' the seconds that it lasts.

local id, job, token, timeout, priority, tenant = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local weight, work, affinity, most_crashes = ARGV[7], tonumber(ARGV[8]), ARGV[9], tonumber(ARGV[10])
local key, request, remember = ARGV[11], ARGV[12], ARGV[13]
local most, most_of_tenant, ttl, expired, bound =
  tonumber(ARGV[14]), tonumber(ARGV[15]), ARGV[16], ARGV[17], ARGV[18]
local router, attended, only_asks = ARGV[19], ARGV[20], ARGV[21] == '1'

local function answer(what, known)
  return {what, known or id, tostring(meta('backlog') / 1000000)}
end

local now = server_time()
local status, unwanted, deadline = unpack(redis.call('HMGET', JOB .. id, 'status', 'unwanted', 'deadline'))
if status and not unwanted then return answer('known') end
if unwanted and tonumber(deadline) <= now then
  redis.call('HDEL', JOB .. id, 'unwanted')
  finish(id, ttl, 'failed', 'error', expired)
  return answer('known')
end
if key ~= '' and not unwanted then
  local known = redis.call('GET', IDEMPOTENCY .. key)
  local earlier, digest = string.match(known or '', '^(%S+) (%S+)$')
  local end_of_it = earlier and redis.call('HGET', JOB .. earlier, 'status')
  -- One that failed has made no image: who asks again asks for a new attempt.
  if end_of_it and end_of_it ~= 'failed' then
    return answer(digest == request and 'known' or 'conflict', earlier)
  end
end
-- One that was here before is none of those that a draining base takes no more.
if not unwanted and redis.call('HGET', META, 'mode') == 'draining' then return answer('closed') end
if is_in_quarantine(affinity, most_crashes) then
  return {'quarantined', id, tostring(redis.call('TTL', DEATHS .. affinity))}
end

end_overdue(now, bound, ttl, expired)
if redis.call('ZCARD', DEADLINES) >= most then return answer('full') end
if tonumber(redis.call('HGET', TENANTS, tenant) or 0) >= most_of_tenant then return answer('tenant_full') end

if only_asks then return answer('added') end

local function begin()
  -- Its share is counted in work, which is known at once and never revised: what tenants are promised does
  -- not depend on what was measured when. How long that takes is an estimate: from the measured pace, or what
  -- the average job takes, or a second before anything is known.
  local load = work > 0 and work / UNIT or average_load()
  local pace, mean = meta('pace'), meta('mean')
  local seconds = work > 0 and pace > 0 and work * pace or (mean > 0 and mean or 1)
  local cost = math.max(1, math.ceil(seconds * 1000000))

  redis.call('HSET', JOB .. id,
    'status', 'queued', 'job', job, 'tenant', tenant, 'priority', priority, 'weight', weight,
    'affinity', affinity, 'cost', digits(cost), 'load', load,
    'place', next_place(priority, tenant, load, weight),
    'enqueued_at', now, 'timeout', timeout, 'deadline', now + timeout, 'attempts', 0, 'crashes', 0)
  if key ~= '' then redis.call('SET', IDEMPOTENCY .. key, id .. ' ' .. request, 'EX', remember) end
end

-- Its tenant's tag counts it since it first came; a new place would charge it twice.
local function begin_again()
  redis.call('HDEL', JOB .. id, 'unwanted', 'finished_at', 'router')
  redis.call('HSET', JOB .. id, 'status', 'queued', 'job', job)
  redis.call('PERSIST', JOB .. id)
end

if unwanted then begin_again() else begin() end
if token ~= '' then redis.call('HSET', JOB .. id, 'token', token) end
if router ~= '' then
  redis.call('HSET', JOB .. id, 'router', router)
  attend(router, attended)
end
count_in(id)
join_ready(id)
mark_work()
return answer('added')
