-- Who may: tenants, their users and keys.
--
-- keys_epoch is one number. Whatever takes something from a key raises it in the
-- same transaction; engines and nginx remember keys for the epoch they were read in.

CREATE TABLE keys_epoch (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    epoch BIGINT NOT NULL
);
INSERT INTO keys_epoch VALUES (1, 1);

CREATE TABLE tenants (
    name       TEXT PRIMARY KEY,
    disabled   INTEGER NOT NULL,
    created_ms BIGINT NOT NULL
);
INSERT INTO tenants VALUES ('default', 0, 0);

CREATE TABLE users (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL REFERENCES tenants (name) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    disabled   INTEGER NOT NULL,
    created_ms BIGINT NOT NULL,
    UNIQUE (tenant, name)
);

-- hash: SHA-256 of the key, hexadecimal. models: a JSON array; NULL: all.
-- expires_ms: -1: never.
CREATE TABLE api_keys (
    id         TEXT PRIMARY KEY,
    hash       TEXT NOT NULL UNIQUE,
    shown      TEXT NOT NULL,
    tenant     TEXT NOT NULL REFERENCES tenants (name) ON DELETE CASCADE,
    user_id    TEXT REFERENCES users (id) ON DELETE CASCADE,
    role       TEXT NOT NULL,
    models     TEXT,
    expires_ms BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX api_keys_tenant ON api_keys (tenant, id);
CREATE INDEX api_keys_user ON api_keys (user_id);
