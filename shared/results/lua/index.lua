-- What the scripts know of the index of all images. The header of the script itself comes before this.
--
-- KEYS  1 index: size and key of an image -> when it expires  2 bytes: the sum of these sizes

local INDEX, BYTES = KEYS[1], KEYS[2]

local function entry(size, key)
  return size .. ' ' .. key
end

local function size_of(member)
  return tonumber(string.match(member, '^%d+'))
end

-- The bytes of all images. Either key may be missing on a server that evicts.
local function total()
  local sum = redis.call('GET', BYTES)
  if sum and redis.call('EXISTS', INDEX) == 1 then return tonumber(sum) end
  sum = 0
  for _, member in ipairs(redis.call('ZRANGE', INDEX, 0, -1)) do sum = sum + size_of(member) end
  return sum
end

local function set_total(sum, ttl)
  redis.call('SET', BYTES, string.format('%.0f', sum), 'EX', ttl)
end

local function forget(member)
  redis.call('ZREM', INDEX, member)
  redis.call('DEL', string.match(member, ' (.+)$'))
  return size_of(member)
end

-- Forget the oldest images until all together have at most so many bytes; return what they have then.
local function shrink(sum, most)
  while sum > most do
    local oldest = redis.call('ZRANGE', INDEX, 0, 0)[1]
    if not oldest then break end
    sum = sum - forget(oldest)
  end
  return sum
end
