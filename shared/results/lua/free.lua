#!lua flags=allow-oom
-- Forget the oldest images.
--
-- ARGV  1 how many bytes to forget, or more  2 ttl
-- Returns how many were forgotten: 0 when there was no image.

local wanted, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])

local sum, freed = total(), 0
while freed < wanted do
  local size = forget_oldest()
  if not size then break end
  freed = freed + size
end
set_total(sum - freed, ttl)
return freed
