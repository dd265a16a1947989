-- May a request pass the rates that count it? Checks all windows and charges all or
-- none. Redis runs it as one step, by its own clock, so that no two engines differ.
--
-- KEYS: a window for each rate. ARGV: for each one "requests window grain burst dry_run",
-- times in milliseconds.
-- Returns the time to wait, whether it is refused, and for each rate: how many are left,
-- until when it is empty, its own time to wait, whether it refuses.
--
-- A window is a sorted set of marks, "end:count": so many requests passed (or will, those
-- that wait) in the grain that ends then; the score is the end. A mark counts until a
-- window's length after its end, so what is not exact errs towards refusing. Its member
-- "total" has minus the sum of the counts as its score: before all times.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function text(number)
    return string.format('%.0f', number)
end

local function count_of(mark)
    return tonumber(string.match(mark, ':(%d+)$'))
end

local function add(key, count)
    return -tonumber(redis.call('ZINCRBY', key, text(-count), 'total'))
end

-- Forgets what has left the window.
local function slide(w)
    local left = redis.call('ZRANGEBYSCORE', w.key, '(0', text(now - w.length))
    local gone = 0
    for _, mark in ipairs(left) do
        gone = gone + count_of(mark)
    end
    if gone > 0 then
        redis.call('ZREMRANGEBYSCORE', w.key, '(0', text(now - w.length))
        add(w.key, -gone)
    end
    w.total = -(tonumber(redis.call('ZSCORE', w.key, 'total')) or 0)
end

-- When one more may pass, now or later.
local function turn_of(w)
    if w.total < w.requests then
        return now
    end
    local excess = w.total - w.requests + 1
    local marks = redis.call('ZRANGEBYSCORE', w.key, '(0', '+inf', 'WITHSCORES',
        'LIMIT', '0', text(excess))
    for i = 1, #marks, 2 do
        excess = excess - count_of(marks[i])
        if excess <= 0 then
            return tonumber(marks[i + 1]) + w.length
        end
    end
    return now + w.length
end

-- How many are yet to pass.
local function waiting(w)
    local n = 0
    for _, mark in ipairs(redis.call('ZRANGEBYSCORE', w.key, '(' .. text(now + w.grain),
            '+inf', 'LIMIT', '0', text(w.burst))) do
        n = n + count_of(mark)
    end
    return n
end

local function last_end(w)
    local last = redis.call('ZRANGE', w.key, '-1', '-1', 'WITHSCORES')
    return tonumber(last[2] or 0)
end

local function charge(w, at)
    local fin = text((math.floor(at / w.grain) + 1) * w.grain)
    local mark = redis.call('ZRANGEBYSCORE', w.key, fin, fin)[1]
    local count = 1
    if mark then
        count = count_of(mark) + 1
        redis.call('ZREM', w.key, mark)
    end
    redis.call('ZADD', w.key, fin, fin .. ':' .. text(count))
    w.total = add(w.key, 1)
    redis.call('PEXPIRE', w.key, text(last_end(w) + w.length - now))
end

local windows, turn, refused = {}, now, 0
for i, key in ipairs(KEYS) do
    local n = {}
    for number in string.gmatch(ARGV[i], '%d+') do
        n[#n + 1] = tonumber(number)
    end
    local w = {key = key, requests = n[1], length = n[2], grain = n[3], burst = n[4],
        dry_run = n[5], refused = 0}
    slide(w)
    w.turn = turn_of(w)
    if w.turn > now and waiting(w) >= w.burst then
        w.refused = 1
    end
    if w.dry_run == 0 then
        refused = math.max(refused, w.refused)
        turn = math.max(turn, w.turn)
    end
    windows[i] = w
end

local answer = {turn - now, refused}
for _, w in ipairs(windows) do
    if refused == 0 and w.refused == 0 then
        charge(w, math.max(turn, w.turn))
    end
    answer[#answer + 1] = math.max(w.requests - w.total, 0)
    answer[#answer + 1] = math.max(last_end(w) - w.grain + w.length - now, 0)
    answer[#answer + 1] = w.turn - now
    answer[#answer + 1] = w.refused
end
return answer
