-- The first schema. Times are UTC nanoseconds since the epoch, 0 where unknown. Text is as the client sent it.
-- `records` is narrow (what lists filter and sort by), `bodies` holds the record itself, so that a list that scans many
-- records does not read their content.

CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO meta (name, value) VALUES ('cursor_secret', randomblob(32));

CREATE TABLE projects (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    cache_bytes INTEGER NOT NULL DEFAULT 0
);

-- One row a trace, kept up to date by the writer. `state` is JSON (summary.TraceState); the columns beside it are the
-- parts of it that lists filter and sort by. `active` is the last time of any of its records.
CREATE TABLE traces (
    id INTEGER PRIMARY KEY,
    project INTEGER NOT NULL,
    trace_id TEXT NOT NULL,
    active INTEGER NOT NULL,
    start INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    trace_name TEXT,
    end_user TEXT,
    session TEXT,
    state BLOB NOT NULL
);
CREATE UNIQUE INDEX traces_key ON traces (project, trace_id);
CREATE INDEX traces_active ON traces (project, active, id, start); -- `start` to skip what `until` leaves out
CREATE INDEX traces_failed ON traces (project, active) WHERE failed = 1;
CREATE INDEX traces_name ON traces (project, trace_name, active) WHERE trace_name IS NOT NULL;
CREATE INDEX traces_user ON traces (project, end_user, active) WHERE end_user IS NOT NULL;
CREATE INDEX traces_session ON traces (project, session, active) WHERE session IS NOT NULL;

CREATE TABLE trace_tags (
    trace INTEGER NOT NULL,
    tag TEXT NOT NULL,
    project INTEGER NOT NULL,
    active INTEGER NOT NULL,
    PRIMARY KEY (trace, tag)
) WITHOUT ROWID;
CREATE INDEX trace_tags_list ON trace_tags (project, tag, active, trace);

-- `size` is the body's length in bytes; pages are bounded by it.
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    project INTEGER NOT NULL,
    trace INTEGER NOT NULL,
    inference_id TEXT NOT NULL,
    parent_id TEXT,
    start INTEGER NOT NULL,
    finish INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    trace_name TEXT,
    model TEXT,
    provider TEXT,
    failed INTEGER NOT NULL,
    end_user TEXT,
    session TEXT,
    deployment TEXT,
    cache_hit INTEGER,
    size INTEGER NOT NULL
);
CREATE UNIQUE INDEX records_key ON records (project, inference_id);
CREATE INDEX records_trace ON records (trace, start);
CREATE INDEX records_start ON records (project, start);
CREATE INDEX records_name ON records (project, name, start);
CREATE INDEX records_failed ON records (project, start) WHERE failed = 1;
CREATE INDEX records_trace_name ON records (project, trace_name, start) WHERE trace_name IS NOT NULL;
CREATE INDEX records_model ON records (project, model, start) WHERE model IS NOT NULL;
CREATE INDEX records_user ON records (project, end_user, start) WHERE end_user IS NOT NULL;
CREATE INDEX records_session ON records (project, session, start) WHERE session IS NOT NULL;
CREATE INDEX records_deployment ON records (project, deployment, start) WHERE deployment IS NOT NULL;

-- The record in its wire form.
CREATE TABLE bodies (record INTEGER PRIMARY KEY, body BLOB NOT NULL);

CREATE TABLE record_tags (
    record INTEGER NOT NULL,
    tag TEXT NOT NULL,
    project INTEGER NOT NULL,
    start INTEGER NOT NULL,
    PRIMARY KEY (record, tag)
) WITHOUT ROWID;
CREATE INDEX record_tags_list ON record_tags (project, tag, start, record);

-- Fields set by `merge`, kept for good: they win over every later copy of the record. `pending` is 1 until it comes.
CREATE TABLE patches (
    project INTEGER NOT NULL,
    inference_id TEXT NOT NULL,
    pending INTEGER NOT NULL,
    patch BLOB NOT NULL,
    PRIMARY KEY (project, inference_id)
) WITHOUT ROWID;
CREATE INDEX patches_pending ON patches (project) WHERE pending = 1;

CREATE TABLE clients (
    project INTEGER NOT NULL,
    client TEXT NOT NULL,
    seen INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (project, client)
) WITHOUT ROWID;
CREATE INDEX clients_seen ON clients (project, seen);

CREATE TABLE deployments (
    project INTEGER NOT NULL,
    deployment_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    active INTEGER NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (project, deployment_id, version)
) WITHOUT ROWID;
CREATE UNIQUE INDEX deployments_active ON deployments (project, deployment_id) WHERE active = 1;

CREATE TABLE responses (
    id INTEGER PRIMARY KEY,
    project INTEGER NOT NULL,
    key TEXT NOT NULL,
    created INTEGER NOT NULL,
    used INTEGER NOT NULL,
    size INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX responses_key ON responses (project, key);
CREATE INDEX responses_used ON responses (project, used);
CREATE INDEX responses_created ON responses (project, created);

-- `projects.cache_bytes` is the sum of `size`, known without reading them all.
CREATE TRIGGER responses_kept AFTER INSERT ON responses BEGIN
    UPDATE projects SET cache_bytes = cache_bytes + NEW.size WHERE id = NEW.project;
END;
CREATE TRIGGER responses_gone AFTER DELETE ON responses BEGIN
    UPDATE projects SET cache_bytes = cache_bytes - OLD.size WHERE id = OLD.project;
END;

CREATE TABLE api_keys (
    digest TEXT PRIMARY KEY,
    project INTEGER NOT NULL,
    created INTEGER NOT NULL,
    body BLOB NOT NULL
) WITHOUT ROWID;
