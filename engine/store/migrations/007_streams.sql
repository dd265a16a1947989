-- Guaranteed streams: their events, and what it takes to go on with them.
--
-- An engine is alive while its row says so. A stream that goes on (ended_ms = 0) belongs to
-- its engine for that long; another one that takes it raises its term, and what the first
-- one still writes changes nothing.

CREATE TABLE engines (
    id       TEXT PRIMARY KEY,
    until_ms BIGINT NOT NULL -- Unix, as all below
);

-- What nginx.conf said when streams began, once for all of them.
CREATE TABLE stream_policies (
    id       TEXT PRIMARY KEY,
    document TEXT NOT NULL
);

CREATE TABLE streams (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    engine     TEXT NOT NULL,
    term       BIGINT NOT NULL,
    last_event BIGINT NOT NULL, -- its number; 0: there is none yet
    ended_ms   BIGINT NOT NULL,
    policy     TEXT NOT NULL,
    request    TEXT             -- what it answers; NULL once it has ended
);
CREATE INDEX streams_ended ON streams (ended_ms);
CREATE INDEX streams_policy ON streams (policy);

-- A batch: the events from first_event to last_event, without their numbers.
CREATE TABLE stream_events (
    stream      TEXT NOT NULL REFERENCES streams (id) ON DELETE CASCADE,
    first_event BIGINT NOT NULL,
    last_event  BIGINT NOT NULL,
    time_ms     BIGINT NOT NULL,
    events      TEXT NOT NULL,
    source      TEXT,           -- what they were made of; NULL: it can be seen in them
    PRIMARY KEY (stream, first_event)
);
