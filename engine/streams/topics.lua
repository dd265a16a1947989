-- What has been said in a topic since an event, for an engine that keeps a part of it; and one
-- event more, where that is asked. Redis runs it as one step, so all engines number alike.
--
-- KEYS: the topic, the news of all topics. ARGV: the number of the last event that the engine
-- has, 0: none; how many bytes of events are kept, for how many milliseconds; the new event's
-- id and text, and "1" where it may be there already, if there is one.
-- Returns the number of the last event, that of the new one (or 0), and entries.
--
-- A topic is a stream whose entries have the event's number as their id: "17-0". Numbers begin
-- with the microseconds of the time when the topic is made, see topics.h. Fields: "e" the text,
-- "i" its id, by which who asks again is answered alike, "b" the bytes of all up to this one.
-- The news are a stream with an entry for each event: "k", the topic's key.

local topic, news = KEYS[1], KEYS[2]
local after, most, keep = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local id, text, again = ARGV[4], ARGV[5], ARGV[6] == '1'

local function entry(number)
    return string.format('%.0f-0', number)
end

local function number(name)
    return tonumber(string.match(name, '^%d+'))
end

local function last()
    local info = redis.call('XINFO', 'STREAM', topic)
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then
            return number(info[i + 1])
        end
    end
end

local function field(of, name)
    for i = 1, #of[2], 2 do
        if of[2][i] == name then
            return of[2][i + 1]
        end
    end
end

if redis.call('EXISTS', topic) == 0 then
    local time = redis.call('TIME')
    local first = entry(time[1] * 1000000 + time[2])
    redis.call('XADD', topic, first, 'e', '')
    redis.call('XDEL', topic, first)
end

local n, said = last(), 0

if id then
    local total = 0
    local latest = again and 4096 or 1
    for i, e in ipairs(redis.call('XREVRANGE', topic, '+', '-', 'COUNT', latest)) do
        if i == 1 then
            total = tonumber(field(e, 'b'))
        end
        if again and field(e, 'i') == id then
            said = number(e[1])
        end
    end
    if said == 0 then
        n = n + 1
        said = n
        total = total + #text
        redis.call('XADD', topic, entry(n), 'e', text, 'i', id, 'b', string.format('%.0f', total))
        repeat
            local first = redis.call('XRANGE', topic, '-', '+', 'COUNT', 1)[1]
            local over = total - tonumber(field(first, 'b')) > most
            if over then
                redis.call('XDEL', topic, first[1])
            end
        until not over
        redis.call('XADD', news, 'MAXLEN', '~', 4096, '*', 'k', topic)
        redis.call('PEXPIRE', news, keep)
    end
end
redis.call('PEXPIRE', topic, keep)

local entries = {}
if n > tonumber(after) then
    for i, e in ipairs(redis.call('XRANGE', topic, '(' .. entry(tonumber(after)), '+')) do
        entries[i] = {e[1], field(e, 'e')}
    end
end
return {string.format('%.0f', n), string.format('%.0f', said), entries}
