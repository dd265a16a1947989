-- What a key may use in a minute. 0: as much as it can.
ALTER TABLE api_keys ADD COLUMN requests_per_minute BIGINT NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN tokens_per_minute BIGINT NOT NULL DEFAULT 0;

-- A key's budgets go with it.
CREATE INDEX budgets_subject ON budgets (scope, tenant, subject);
