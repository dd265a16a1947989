-- Budgets of single tenants, users and keys, stricter than those of the configuration.
CREATE TABLE budgets (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE, -- its accounts' ids begin with it
    tenant     TEXT NOT NULL,
    scope      TEXT NOT NULL,        -- tenant, user or key
    subject    TEXT NOT NULL,        -- the user's name, the key's id
    unit       TEXT NOT NULL,        -- usd or tokens
    period     TEXT NOT NULL,        -- day or month
    amount     BIGINT NOT NULL,      -- nano-USD or tokens
    created_ms BIGINT NOT NULL
);
