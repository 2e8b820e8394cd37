#!lua
-- Keep an image; the oldest ones go until all together are within the cap.
--
-- KEYS  3 image
-- ARGV  1 data  2 ttl  3 cap in bytes, at least the size of the data

local IMAGE = KEYS[3]
local data, ttl, cap = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local MOST_EXPIRED = 1000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local sum = total()
local until_now = string.format('%.0f', now)
local expired = redis.call('ZRANGE', INDEX, '-inf', until_now, 'BYSCORE', 'LIMIT', 0, MOST_EXPIRED)
for _, member in ipairs(expired) do sum = sum - forget(member) end

-- one who wants the same for longer is owed that still, up to the half second that TTL leaves out
local lasts = math.max(ttl, redis.call('TTL', IMAGE))
-- a repeated call brings the same data
if redis.call('ZREM', INDEX, entry(#data, IMAGE)) == 1 then sum = sum - #data end

sum = shrink(sum, cap - #data)

redis.call('SET', IMAGE, data, 'EX', lasts)
redis.call('ZADD', INDEX, string.format('%.0f', now + lasts * 1000000), entry(#data, IMAGE))
-- some are kept for longer than others, and none is in no index
local longest = math.max(lasts, redis.call('TTL', INDEX))
redis.call('EXPIRE', INDEX, longest)
set_total(sum + #data, longest)
return nil
