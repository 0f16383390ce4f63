"""What the server does by itself, each in one piece, whoever else is there: Lua scripts, and the keys they use.

All keys begin with ``weighted_stream:{name}:``; the braces keep them on one node of a cluster.

- ``meta``: a hash: ``manifest`` (as that of any store), ``changes`` (how many there were), ``scored``.
- ``writers``: a hash: which session holds the contributions of a writer.
- ``pending``: a hash: which session is about to take its place.
- ``hidden``: a set: sessions that do not count, not yet or not any more.
- ``last``: a hash: the token of the last push of each session.
- ``changes``: a stream, the latest pushes: which ids, by which session. Others follow it.
- ``0`` to ``262143``: hashes: for each id (8 bytes) what each session knows of it: 40 bytes each, the session (8 bytes)
  and a record (32 bytes).
"""

from __future__ import annotations

BUCKETS = 1 << 18
"""Keys with records: so few that going through all is quick, so many that each stays small, which servers keep dense:
about 100 bytes a sample that one writer has seen (at a million)."""

MOST_CHANGES = 4096
"""Pushes the stream holds; who has missed more goes through all records."""

MOST_SESSIONS = 128
"""That may contribute to one sample."""

# Keys: meta, changes, last, hidden, pending. Arguments: prefix, session, token before, token, ids, buckets, records.
_PUSH = f"""
local prefix, me, before, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ids, buckets, records = ARGV[5], ARGV[6], ARGV[7]
local last = redis.call('HGET', KEYS[3], me)
if last == token then return 'done' end
if last ~= before then return 'lost' end
local hides = {{}}
for _, session in ipairs(redis.call('SMEMBERS', KEYS[4])) do hides[session] = true end
for _, session in ipairs(redis.call('HVALS', KEYS[5])) do hides[session] = nil end
local scored = 0
for i = 1, #ids / 8 do
  local id = string.sub(ids, 8 * i - 7, 8 * i)
  local key = prefix .. struct.unpack('<I4', buckets, 4 * i - 3)
  local record = string.sub(records, 32 * i - 31, 32 * i)
  local known = redis.call('HGET', key, id)
  local slots, had = {{me .. record}}, false
  if known then
    for at = 1, #known, 40 do
      local whose = string.sub(known, at, at + 7)
      if whose == me then had = string.sub(known, at + 20, at + 23) ~= '\\0\\0\\0\\0'
      elseif not hides[whose] then slots[#slots + 1] = string.sub(known, at, at + 39) end
    end
  end
  if #slots > {MOST_SESSIONS} then return 'full' end
  if not had and string.sub(record, 13, 16) ~= '\\0\\0\\0\\0' then scored = scored + 1 end
  redis.call('HSET', key, id, table.concat(slots))
end
local n = redis.call('HINCRBY', KEYS[1], 'changes', 1)
if scored > 0 then redis.call('HINCRBY', KEYS[1], 'scored', scored) end
redis.call('XADD', KEYS[2], 'MAXLEN', {MOST_CHANGES}, string.format('%.0f-0', n), 's', me, 't', token, 'i', ids)
redis.call('HSET', KEYS[3], me, token)
return 'done'
"""

# Keys: hidden. Arguments: prefix, sessions to leave out, ids, buckets.
_READ = """
local prefix, ids, buckets = ARGV[1], ARGV[3], ARGV[4]
local hides = {}
for _, session in ipairs(redis.call('SMEMBERS', KEYS[1])) do hides[session] = true end
for at = 1, #ARGV[2], 8 do hides[string.sub(ARGV[2], at, at + 7)] = true end
local counts, slots = {}, {}
for i = 1, #ids / 8 do
  local key = prefix .. struct.unpack('<I4', buckets, 4 * i - 3)
  local known, count = redis.call('HGET', key, string.sub(ids, 8 * i - 7, 8 * i)), 0
  if known then
    for at = 1, #known, 40 do
      if not hides[string.sub(known, at, at + 7)] then
        count = count + 1
        slots[#slots + 1] = string.sub(known, at, at + 39)
      end
    end
  end
  counts[i] = struct.pack('<I2', count)
end
return {table.concat(counts), table.concat(slots)}
"""

# Keys: hidden. Arguments: prefix, sessions to leave out, first bucket, how many ids at least, buckets at most.
_SCAN = f"""
local hides = {{}}
for _, session in ipairs(redis.call('SMEMBERS', KEYS[1])) do hides[session] = true end
for at = 1, #ARGV[2], 8 do hides[string.sub(ARGV[2], at, at + 7)] = true end
local bucket, enough = tonumber(ARGV[3]), tonumber(ARGV[4])
local last = math.min({BUCKETS}, bucket + tonumber(ARGV[5]))
local ids, counts, slots = {{}}, {{}}, {{}}
while bucket < last and #ids < enough do
  local all = redis.call('HGETALL', ARGV[1] .. bucket)
  for i = 1, #all, 2 do
    local known, count = all[i + 1], 0
    for at = 1, #known, 40 do
      if not hides[string.sub(known, at, at + 7)] then
        count = count + 1
        slots[#slots + 1] = string.sub(known, at, at + 39)
      end
    end
    if count > 0 then
      ids[#ids + 1] = all[i]
      counts[#counts + 1] = struct.pack('<I2', count)
    end
  end
  bucket = bucket + 1
end
return {{bucket, table.concat(ids), table.concat(counts), table.concat(slots)}}
"""

# Keys: writers, pending, last, hidden. Arguments: writer, session, token, and what is expected: the session that holds
# its contributions, and the one about to ('' for none). 0: it is not so. A claim that arrives late changes nothing.
_CLAIM = """
local live, coming = redis.call('HGET', KEYS[1], ARGV[1]), redis.call('HGET', KEYS[2], ARGV[1])
if (live or '') ~= ARGV[4] or (coming or '') ~= ARGV[5] then return 0 end
if coming then redis.call('HDEL', KEYS[3], coming) end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
if live then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('SADD', KEYS[4], ARGV[2])
else redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1
"""

# Keys: writers, pending, last, hidden, meta, changes. Arguments: writer, session, token of the announcement.
_TAKE_OVER = f"""
local live = redis.call('HGET', KEYS[1], ARGV[1])
if live == ARGV[2] then return 'done' end
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 'lost' end
if live then
  redis.call('SADD', KEYS[4], live)
  redis.call('HDEL', KEYS[3], live)
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[4], ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local n = redis.call('HINCRBY', KEYS[5], 'changes', 1)
redis.call('XADD', KEYS[6], 'MAXLEN', {MOST_CHANGES}, string.format('%.0f-0', n), 's', ARGV[2], 't', ARGV[3], 'a', '1')
return 'done'
"""

# Keys: meta. Arguments: the manifest that was read ('' for none), the one to take its place.
_SWAP = """
if (redis.call('HGET', KEYS[1], 'manifest') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'manifest', ARGV[2])
return 1
"""

SCRIPTS = {"push": _PUSH, "read": _READ, "scan": _SCAN, "claim": _CLAIM, "take over": _TAKE_OVER, "swap": _SWAP}
"""By name."""
