-- Tokens of models that keys may use in a time, of all engines together. Redis runs it as
-- one step, by its own clock, so that no two engines differ.
--
-- KEYS: three for each window. slots: what counts, by the step of the window that it began
-- in; a window has STEPS of them, and tokens count for up to a step longer than they must.
-- holds: what a request that has not ended holds, "slot:tokens" by its id, or "-" for a
-- while once it has ended, so that who says it twice does no harm. leases: until when that
-- counts.
--
-- ARGV: what to do, the request's id, the length of a lease, how long ago the request began,
-- and for each window "limit length tokens"; times in milliseconds.
--     hold    from all windows or none. Returns the time to wait (0: it is held), the number
--             of the window that refuses it, and for each how many are left and until when
--             the window is empty.
--     settle  the request has ended, and used so many.
--     renew   it goes on. Who does not say so for a lease is dead: it holds nothing more.

local STEPS = 60
local LAPSED = 200 -- looked at in a run

local verb, id, lease, age = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function text(number)
    return string.format('%.0f', number)
end

local function add(w, slot, tokens)
    if tokens ~= 0 and slot >= w.oldest then
        redis.call('HINCRBY', w.slots, text(slot), text(tokens))
    end
end

local function read_hold(w, whose)
    local slot, tokens = string.match(redis.call('HGET', w.holds, whose) or '', '^(%d+):(%d+)$')
    return tonumber(slot), tonumber(tokens)
end

-- Those of the dead, and what is remembered of those that have ended.
local function end_leases(w)
    local lapsed = redis.call('ZRANGEBYSCORE', w.leases, '-inf', text(now), 'LIMIT', '0',
        text(LAPSED))
    for _, whose in ipairs(lapsed) do
        local slot, tokens = read_hold(w, whose)
        if slot then
            add(w, slot, -tokens)
        end
        redis.call('HDEL', w.holds, whose)
        redis.call('ZREM', w.leases, whose)
    end
end

-- Forgets what has left the window.
local function slide(w)
    local all = redis.call('HGETALL', w.slots)
    w.used, w.total, w.newest = {}, 0, 0
    for i = 1, #all, 2 do
        local slot, tokens = tonumber(all[i]), tonumber(all[i + 1])
        if slot < w.oldest then
            redis.call('HDEL', w.slots, all[i])
        elseif tokens > 0 then
            w.used[slot] = tokens
            w.total = w.total + tokens
            w.newest = math.max(w.newest, slot)
        end
    end
end

-- Until so many have left the window.
local function wait_for(w, tokens)
    for slot = w.oldest, w.current do
        tokens = tokens - (w.used[slot] or 0)
        if tokens <= 0 then
            return math.max((slot + STEPS + 1) * w.step - now, 1)
        end
    end
    return w.length
end

local function keep(w)
    for _, key in ipairs({w.slots, w.holds, w.leases}) do
        redis.call('PEXPIRE', key, text(w.length + w.step + lease))
    end
end

local function put_hold(w)
    add(w, w.current, w.tokens)
    redis.call('HSET', w.holds, id, text(w.current) .. ':' .. text(w.tokens))
    redis.call('ZADD', w.leases, text(now + lease), id)
    w.total = w.total + w.tokens
    w.newest = w.current
    keep(w)
end

local function settle(w)
    if redis.call('HGET', w.holds, id) == '-' then
        return
    end
    local slot, held = read_hold(w, id)
    add(w, slot or math.floor((now - age) / w.step), w.tokens - (held or 0))
    redis.call('HSET', w.holds, id, '-')
    redis.call('ZADD', w.leases, text(now + lease), id)
    keep(w)
end

local function renew(w)
    if read_hold(w, id) then
        redis.call('ZADD', w.leases, text(now + lease), id)
        keep(w)
    end
end

local windows, wait, refused_by = {}, 0, 0
for i = 1, #KEYS / 3 do
    local limit, length, tokens = string.match(ARGV[4 + i], '^(%d+) (%d+) (%d+)$')
    local w = {slots = KEYS[3 * i - 2], holds = KEYS[3 * i - 1], leases = KEYS[3 * i],
        limit = tonumber(limit), length = tonumber(length), tokens = tonumber(tokens)}
    w.step = math.floor(w.length / STEPS)
    w.current = math.floor(now / w.step)
    w.oldest = w.current - STEPS
    windows[i] = w
end

if verb == 'settle' or verb == 'renew' then
    for _, w in ipairs(windows) do
        if verb == 'settle' then
            settle(w)
        else
            renew(w)
        end
    end
    return {0}
end

for i, w in ipairs(windows) do
    end_leases(w)
    slide(w)
    w.tokens = math.min(w.tokens, w.limit)
    local excess = w.total + w.tokens - w.limit
    local ms = excess > 0 and wait_for(w, excess) or 0
    if ms > wait then
        wait, refused_by = ms, i
    end
end

local answer = {wait, refused_by}
for _, w in ipairs(windows) do
    if wait == 0 then
        put_hold(w)
    end
    answer[#answer + 1] = math.max(w.limit - w.total, 0)
    answer[#answer + 1] = math.max(w.total > 0 and (w.newest + STEPS) * w.step - now or 0, 0)
end
return answer
