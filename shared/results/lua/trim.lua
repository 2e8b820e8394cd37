#!lua flags=allow-oom
-- Forget the oldest images until all together are within a number of bytes.
--
-- ARGV  1 that number

local most = tonumber(ARGV[1])

local sum = total()
while sum > most do
  local size = forget_oldest()
  if not size then break end
  sum = sum - size
end
set_total(sum, math.max(1, redis.call('TTL', INDEX)))
return nil
