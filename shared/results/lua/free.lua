#!lua flags=allow-oom
-- Forget the oldest images.
--
-- ARGV  1 how many bytes to forget, or more  2 ttl
-- Returns how many were forgotten: 0 when there was no image.

local wanted, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])

local before = total()
local after = shrink(before, before - wanted)
set_total(after, ttl)
return before - after
