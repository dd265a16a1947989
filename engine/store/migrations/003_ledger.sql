-- What every call of a model used and cost. Money is in nano-USD.
CREATE TABLE usage_events (
    id               TEXT PRIMARY KEY,
    time_ms          BIGINT NOT NULL, -- Unix, of the call's begin
    request_id       TEXT NOT NULL,
    tenant           TEXT NOT NULL,
    user_name        TEXT NOT NULL,
    key_id           TEXT NOT NULL,
    model            TEXT NOT NULL,   -- as the client named it
    provider         TEXT NOT NULL,
    target           TEXT NOT NULL,   -- as the provider names it
    status           BIGINT NOT NULL, -- 0: the engine died with the call
    tokens_in        BIGINT NOT NULL, -- -1 here and below: not known
    tokens_cached    BIGINT NOT NULL,
    tokens_out       BIGINT NOT NULL,
    tokens_reasoning BIGINT NOT NULL,
    cost_nano_usd    BIGINT NOT NULL,
    estimated        BIGINT NOT NULL, -- 1: not what the provider said
    duration_us      BIGINT NOT NULL,
    first_token_us   BIGINT NOT NULL
);
CREATE INDEX usage_events_by_time ON usage_events (time_ms);

-- What was spent of a budget in one period; the id names both.
CREATE TABLE budget_accounts (
    id    TEXT PRIMARY KEY,
    spent BIGINT NOT NULL -- tokens or nano-USD
);

-- What an engine may promise to calls without asking again.
CREATE TABLE budget_leases (
    account    TEXT NOT NULL,
    engine     TEXT NOT NULL,
    amount     BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (account, engine)
);
