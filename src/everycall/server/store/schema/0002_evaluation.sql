-- What people and programs say about records: feedback, experiments, datasets and their test cases.

CREATE TABLE feedback (
    id INTEGER PRIMARY KEY,
    project INTEGER NOT NULL,
    inference_id TEXT NOT NULL,
    score REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX feedback_record ON feedback (project, inference_id, id);

CREATE TABLE experiments (
    project INTEGER NOT NULL,
    uuid TEXT NOT NULL,
    name TEXT NOT NULL,
    run_name TEXT NOT NULL,
    created INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (project, uuid)
) WITHOUT ROWID;
CREATE UNIQUE INDEX experiments_run ON experiments (project, name, run_name);
CREATE INDEX experiments_created ON experiments (project, created);

-- `bytes` is the sum of its cases' bodies.
CREATE TABLE datasets (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project INTEGER NOT NULL,
    name TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    columns BLOB NOT NULL,
    cases INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE UNIQUE INDEX datasets_name ON datasets (project, name);

CREATE TABLE test_cases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX test_cases_dataset ON test_cases (dataset, id);

-- Which records belong to an experiment: few do, and only those that hold the name of the attribute are read as JSON.
CREATE INDEX bodies_experiment ON bodies (json_extract(CAST(body AS TEXT), '$.attributes."parea.experiment_uuid"'))
    WHERE instr(body, CAST('parea.experiment_uuid' AS BLOB)) > 0;
