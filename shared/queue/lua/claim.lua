#!lua flags=allow-oom
-- Give waiting jobs to a worker, by the rule of rule.py. The same token gets the same answer again.
--
-- KEYS  19 worker: the last claim of this worker
-- ARGV  1 worker id  2 claim token  3 lease seconds  4 seconds to remember the claim
--       5 record ttl  6 the encoded error of an expired job  7 most jobs to end or to promote in one call
--       8 most jobs to claim  9 most hints  10 slack in average jobs  11 most overtakes  12 oldest age passed
--       13 workers that may die with the same adapters  14 the encoded error of a job in quarantine
--       15 one claim in how many is a lower priority's, then the worker's affinities, the active one first
-- Returns {{job id, encoded job, sealed token, fence, attempt, crashes} for each, {encoded job that comes soon, ...},
--   seconds until the next delayed job is due, or ''}.

local LAST = KEYS[19]
local worker, token, lease, memory, ttl, expired, bound = unpack(ARGV, 1, 7)
local count, most_hints, slack, most_overtakes, max_age = tonumber(ARGV[8]), tonumber(ARGV[9]),
  ARGV[10] * average_load(), tonumber(ARGV[11]), tonumber(ARGV[12])
local most_crashes, quarantined, turn, FIRST_HOT = tonumber(ARGV[13]), ARGV[14], tonumber(ARGV[15]), 16
local now = server_time()

local function lease_of(id, fence)
  local job = redis.call('HMGET', JOB .. id, 'job', 'token', 'attempts', 'crashes')
  return {id, job[1], job[2] or '', tonumber(fence), tonumber(job[3]), tonumber(job[4])}
end

-- Above every earlier fence, also above those that were given before the server lost its data.
local function next_fence()
  local fence = digits(math.max(meta('fence') + 1, math.floor(now * 1000000)))
  redis.call('HSET', META, 'fence', fence)
  return fence
end

local function promote_due()
  local due = redis.call('ZRANGE', DELAYED, '-inf', now, 'BYSCORE', 'LIMIT', 0, bound)
  for _, id in ipairs(due) do
    redis.call('ZREM', DELAYED, id)
    if is_whole(id) then join_ready(id) end
  end
end

-- The first job of a sorted set within a priority, as {id, score, key}; nil when there is none.
local function first(key, priority)
  local low, high = span(priority)
  local found = redis.call('ZRANGE', key, low, high, 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  return found[1] and {id = found[1], score = tonumber(found[2]), key = key} or nil
end

local function heads()
  local waiting = {}
  for priority = 0, PRIORITIES - 1 do
    local head = first(READY, priority)
    if head then
      head.priority = priority
      head.waited = now - (redis.call('HGET', JOB .. head.id, 'enqueued_at') or now)
      waiting[#waiting + 1] = head
    end
  end
  return waiting
end

-- The worker's best job within the bounds; else the head.
local function within(head)
  local low, high = span(head.priority)
  redis.call('ZREMRANGEBYSCORE', OVERTAKERS, low, '(' .. digits(head.score))
  if head.waited > max_age then return head end
  local overtaken = redis.call('ZCOUNT', OVERTAKERS, '(' .. digits(head.score), high)
  if overtaken >= most_overtakes then return head end
  local best
  for i = FIRST_HOT, #ARGV do
    if i > FIRST_HOT and overtaken >= most_overtakes / 2 then break end
    local hot = first(ADAPTER .. ARGV[i], head.priority)
    if hot and hot.score <= head.score + slack then
      if i == FIRST_HOT then return hot end
      if not best or hot.score < best.score then best = hot end
    end
  end
  return best or head
end

-- The job to take and the head of its priority; nil when none waits.
local function choose()
  local waiting = heads()
  local owed
  for i = 2, #waiting do
    if waiting[i].waited > max_age then owed = owed or waiting[i] end
  end
  local head = waiting[1]
  if owed then
    if meta('passed') >= turn - 1 then
      redis.call('HSET', META, 'passed', 0)
      head = owed
    else
      redis.call('HINCRBY', META, 'passed', 1)
    end
  end
  if not head then return nil end
  return within(head), head
end

-- Whether the router that alone waits for the job is gone, or stands still and looks like it.
local function is_unwanted(id)
  local router = redis.call('HGET', JOB .. id, 'router')
  return router and tonumber(redis.call('ZSCORE', ROUTERS, router) or 0) <= now
end

local function advance(head)
  local virtual = math.max(virtual_time(head.priority), head.score)
  redis.call('HSET', META, 'virtual:' .. head.priority, digits(virtual))
  redis.call('ZREMRANGEBYSCORE', TAGS, (span(head.priority)), digits(virtual))
end

local function take(chosen, head)
  local id, fence = chosen.id, next_fence()
  advance(head)
  if chosen.score > head.score then redis.call('ZADD', OVERTAKERS, digits(chosen.score), fence) end
  leave(id)
  redis.call('ZADD', ACTIVE, now + lease, id)
  redis.call('HSET', JOB .. id, 'status', 'running', 'worker', worker, 'fence', fence, 'started_at', now)
  redis.call('HINCRBY', JOB .. id, 'attempts', 1)
  return fence
end

local function claim(ended)
  local leases, taken = {}, {}
  while #leases < count and ended < tonumber(bound) do
    local chosen, head = choose()
    if not chosen then break end
    if not is_whole(chosen.id) then
      redis.call('ZREM', chosen.key, chosen.id)
      ended = ended + 1
    elseif is_unwanted(chosen.id) then
      finish(chosen.id, ttl, 'cancelled', 'unwanted', 1)
      ended = ended + 1
    elseif is_in_quarantine(redis.call('HGET', JOB .. chosen.id, 'affinity'), most_crashes) then
      withdraw(chosen.id, ttl, 'failed', 'error', quarantined)
      ended = ended + 1
    else
      local fence = take(chosen, head)
      leases[#leases + 1] = lease_of(chosen.id, fence)
      taken[#taken + 1] = chosen.id .. ' ' .. fence
    end
  end
  if #taken > 0 then
    redis.call('HSET', LAST, 'token', token, 'claims', table.concat(taken, ' '))
    redis.call('EXPIRE', LAST, memory)
  end
  return leases
end

-- What this worker was given for the same token, as far as it still holds it: from now on, as if anew.
local function claimed_before()
  local leases = {}
  local last = redis.call('HMGET', LAST, 'token', 'claims')
  if last[1] ~= token then return leases end
  for id, fence in string.gmatch(last[2], '(%S+) (%S+)') do
    if is_held(id, worker, fence) then
      redis.call('ZADD', ACTIVE, now + lease, id)
      leases[#leases + 1] = lease_of(id, fence)
    end
  end
  return leases
end

local function hints()
  local soon = {}
  if most_hints == 0 then return soon end
  for _, id in ipairs(redis.call('ZRANGE', READY, 0, most_hints - 1)) do
    soon[#soon + 1] = redis.call('HGET', JOB .. id, 'job') or nil -- its record may be lost
  end
  return soon
end

local function until_due()
  local next_due = redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2]
  return next_due and tostring(math.max(0, next_due - now)) or ''
end

local leases = claimed_before()
if #leases == 0 then
  local ended = end_overdue(now, bound, ttl, expired)
  promote_due()
  if redis.call('HGET', META, 'mode') ~= 'paused' then leases = claim(ended) end
  mark_work()
end
return {leases, hints(), until_due()}
