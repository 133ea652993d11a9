-- Versions are found again by what they say, and it is kept which version was served when.

ALTER TABLE deployments ADD COLUMN digest TEXT; -- SHA-256 of the content; NULL in versions from before
CREATE INDEX deployments_digest ON deployments (project, deployment_id, digest);
CREATE INDEX deployments_served ON deployments (project, name, deployment_id) WHERE active = 1;

-- `version` 0: none was served. `earlier` is the activation that a roll-back from this one leads to.
CREATE TABLE activations (
    id INTEGER PRIMARY KEY,
    project INTEGER NOT NULL,
    deployment_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    earlier INTEGER
);
CREATE INDEX activations_deployment ON activations (project, deployment_id, id);

-- So far each version was served from when it was made.
INSERT INTO activations (project, deployment_id, version, at, actor)
    SELECT project, deployment_id, version, coalesce(CAST(body AS TEXT) ->> '$.created_unix_nano', 0), ''
    FROM deployments ORDER BY project, deployment_id, version;
UPDATE activations SET earlier = (
    SELECT max(e.id) FROM activations e
    WHERE e.project = activations.project AND e.deployment_id = activations.deployment_id AND e.id < activations.id
);

-- A browser's sessions that were ended by logging out, until they would have ended by themselves.
CREATE TABLE ended_sessions (session TEXT PRIMARY KEY, expires INTEGER NOT NULL) WITHOUT ROWID;
