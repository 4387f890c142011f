CREATE TABLE api_keys (
    id         uuid PRIMARY KEY,
    tenant     text NOT NULL,
    name       text NOT NULL,
    -- SHA-256 of the secret: it has 256 random bits, which no dictionary reaches.
    hash       bytea NOT NULL UNIQUE,
    scopes     text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used  timestamptz
);

CREATE TABLE user_sessions (
    id         uuid PRIMARY KEY,
    key_id     uuid NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    tenant     text NOT NULL,
    hash       bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz,
    last_seen  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX user_sessions_by_age ON user_sessions (created_at);

-- One partition a month, made ahead; the default one catches what no partition was made for.
CREATE TABLE audit_logs (
    id         uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    tenant     text,
    -- Who: `key:<id>`, `session:<id>`, `cli`, or `nobody`.
    actor      text NOT NULL,
    -- What, as `object.verb`: document.create, key.revoke, session.login …
    action     text NOT NULL,
    subject    text NOT NULL DEFAULT '',
    outcome    text NOT NULL CHECK (outcome IN ('done', 'refused', 'failed')),
    request_id text,
    details    jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);
CREATE TABLE audit_logs_default PARTITION OF audit_logs DEFAULT;
CREATE INDEX audit_logs_of_tenant ON audit_logs (tenant, created_at DESC);
