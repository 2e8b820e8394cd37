#!lua flags=no-writes
-- Say how the base's queue stands, all at one moment: no job is counted twice on its way, or not at all.
--
-- ARGV  1 seconds that a job which was given up is kept
-- Returns {mode or '', waiting, delayed, running, given up, when the oldest of those that wait was enqueued
--   or '', seconds of work that wait, the server's time}.

local now = server_time()
return {
  redis.call('HGET', META, 'mode') or '',
  redis.call('ZCARD', READY),
  redis.call('ZCARD', DELAYED),
  redis.call('ZCARD', ACTIVE),
  redis.call('ZCOUNT', DEAD, now - ARGV[1], '+inf'), -- older ones leave with the next that is given up
  redis.call('ZRANGE', AGE, 0, 0, 'WITHSCORES')[2] or '',
  tostring(meta('backlog') / 1000000),
  string.format('%.6f', now),
}
