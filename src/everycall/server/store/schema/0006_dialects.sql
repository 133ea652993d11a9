-- Records of spans that other instrumentation sent, in whose vocabulary, found by their parent: what an ancestor says
-- (its user, its session, what it omits) holds for them whenever it arrives.

ALTER TABLE records ADD COLUMN dialect TEXT;
CREATE INDEX records_foreign_parent ON records (project, parent_id) WHERE dialect IS NOT NULL AND parent_id IS NOT NULL;

-- What joins spans that come apart. `key` names what they have in common, `inference_id` the record that was found by
-- it, `at` when (nanoseconds). `flags` is what a span without a record of its own omits below it.
CREATE TABLE span_joins (
    project INTEGER NOT NULL,
    key TEXT NOT NULL,
    inference_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    is_answer INTEGER NOT NULL,
    joined TEXT,
    flags TEXT,
    PRIMARY KEY (project, key, inference_id)
) WITHOUT ROWID;
CREATE INDEX span_joins_stored ON span_joins (stored);
