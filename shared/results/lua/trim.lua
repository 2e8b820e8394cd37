#!lua flags=allow-oom
-- Forget the oldest images until all together are within a number of bytes.
--
-- ARGV  1 that number

set_total(shrink(total(), tonumber(ARGV[1])), math.max(1, redis.call('TTL', INDEX)))
return nil
