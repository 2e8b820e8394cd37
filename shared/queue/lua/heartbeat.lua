#!lua flags=allow-oom
-- Renew the leases of a worker's jobs and record how far they are.
--
-- ARGV  1 worker id  2 lease seconds, then for each job: its id, fence, steps done, steps to do
-- Returns 'held', 'cancelled' (renewed as well: the worker has to stop it) or 'lost' for each job.

local worker, lease = ARGV[1], ARGV[2]
local deadline = server_time() + lease

local function renew(id, fence, step, total)
  if not is_held(id, worker, fence) then return 'lost' end
  redis.call('ZADD', ACTIVE, 'GT', deadline, id)
  redis.call('HSET', JOB .. id, 'step', step, 'total', total)
  return redis.call('HEXISTS', JOB .. id, 'cancelled') == 1 and 'cancelled' or 'held'
end

local states = {}
for i = 3, #ARGV, 4 do
  states[#states + 1] = renew(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
return states
