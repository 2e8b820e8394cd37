#!lua flags=allow-oom
-- Say whether the base takes new jobs and hands jobs out.
--
-- ARGV  1 'open', 'paused' (takes jobs, hands none out) or 'draining' (hands jobs out, takes none)

redis.call('HSET', META, 'mode', ARGV[1])
mark_work()
return nil
