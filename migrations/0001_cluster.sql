-- Who is there and who may: nodes with incarnations and leases, leadership with terms, secrets that nodes share.

-- One row per node; a restart replaces the incarnation. lease_until is renewed all the time and therefore never indexed (HOT updates).
CREATE TABLE nodes (
    node_id       text        PRIMARY KEY CHECK (length(node_id) BETWEEN 1 AND 63),
    incarnation   bigint      NOT NULL,
    role          text        NOT NULL CHECK (role IN ('gateway', 'match', 'matchmaker', 'social')),
    state         text        NOT NULL CHECK (state IN ('starting', 'ready', 'draining', 'stopped')),
    version       text        NOT NULL,
    region        text        NOT NULL DEFAULT '',
    http_url      text,       -- where players reach REST, without a slash at the end
    ws_url        text,       -- where players reach the WebSocket, ends in /ws
    grpc_addr     text,       -- host:port for other processes
    metrics_addr  text,       -- host:port for scrapers
    pid           integer     NOT NULL,
    load          integer     NOT NULL DEFAULT 0,  -- sessions of a gateway, matches of a host
    capacity      integer     NOT NULL DEFAULT 0,  -- 0: not limited
    started_at    timestamptz NOT NULL DEFAULT now(),
    lease_until   timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Node incarnations are unique across nodes and restarts; a sequence may skip, which does no harm here.
CREATE SEQUENCE node_incarnations AS bigint;

-- One row, empty after a crash of the server: a new value tells every node that unlogged rows are gone.
CREATE UNLOGGED TABLE database_incarnation (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    value  uuid    NOT NULL
);

-- Leadership: who took the advisory lock last, and under which term. Each of a leader's transactions begins with a FOR SHARE
-- lock of this row at its own term; taking the lock updates the row and therefore waits for those.
CREATE TABLE leader (
    name         text        PRIMARY KEY,
    term         bigint      NOT NULL DEFAULT 0,  -- timeline << 40 | number, so that a failover cannot take it back
    node_id      text,
    incarnation  bigint,
    taken_at     timestamptz
);
INSERT INTO leader (name) VALUES ('matchmaker');

-- Secrets all nodes share through the database: the cluster key between services, the pepper of device secrets.
CREATE TABLE cluster_secrets (
    name        text        PRIMARY KEY,
    value       text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO cluster_secrets (name, value) VALUES
    ('cluster_key', encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex')),
    ('device_pepper', encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex'));
