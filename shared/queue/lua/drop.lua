#!lua flags=allow-oom
-- Forget a job that was given up.
--
-- ARGV  1 job id
-- Returns 1, or 0 when no such job was given up.

local id = ARGV[1]

if redis.call('ZREM', DEAD, id) == 0 then return 0 end
redis.call('DEL', JOB .. id)
return 1
