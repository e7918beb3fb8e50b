-- Who may call from outside the cluster, what they did, and the cluster's own keys.

-- The keys that processes of the cluster show each other: known to all before they are shown, believed until they retire.
CREATE TABLE cluster_keys (
    id           uuid        PRIMARY KEY,
    value        text        NOT NULL,
    active_from  timestamptz NOT NULL,
    retires_at   timestamptz           -- null: until another one takes its place
);
INSERT INTO cluster_keys (id, value, active_from) SELECT gen_random_uuid(), value, created_at FROM cluster_secrets WHERE name = 'cluster_key';
DELETE FROM cluster_secrets WHERE name = 'cluster_key';

CREATE TABLE operator_tokens (
    id          uuid        PRIMARY KEY,
    name        text        NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 128),
    token_hash  bytea       NOT NULL UNIQUE,  -- sha256 of the opaque token
    scopes      text[]      NOT NULL,         -- asobi.ops.v1.Scope, by their names in lower case
    created_by  text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    used_at     timestamptz                   -- last, give or take a minute
);
CREATE INDEX operator_tokens_expiry ON operator_tokens (expires_at);
CREATE INDEX operator_tokens_name ON operator_tokens (name);

-- Who did what. Only ever appended to: not even its owner changes a row by accident.
CREATE TABLE audit (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor       text        NOT NULL,             -- token:<name>, cert:<name>, player:<id>, node, or who was refused
    action      text        NOT NULL,             -- the method, as Service/Method
    subject     text        NOT NULL DEFAULT '',  -- what it was done to: a player's id, a board, a match, a node
    outcome     text        NOT NULL CHECK (outcome IN ('done', 'refused')),
    request_id  text,
    detail      jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_subject ON audit (subject, id) WHERE subject <> '';
CREATE INDEX audit_actor ON audit (actor, id);
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is only appended to';
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- What an operator's request id was answered, for a day.
CREATE TABLE operator_requests (
    actor         text        NOT NULL,
    request_id    text        NOT NULL CHECK (octet_length(request_id) BETWEEN 1 AND 128),
    request_hash  bytea       NOT NULL,  -- of the method and the message: another one under this id is a mistake
    response      bytea,                 -- the answer as protobuf; null while its transaction is under way
    at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (actor, request_id)
);
CREATE INDEX operator_requests_age ON operator_requests (at);
