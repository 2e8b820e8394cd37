#!lua flags=allow-oom
-- A router is there, and wants the jobs that it waits for.
--
-- ARGV  1 router  2 seconds for which that holds

attend(ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', ROUTERS, '-inf', server_time())
return nil
