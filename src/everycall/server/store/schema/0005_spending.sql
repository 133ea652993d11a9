-- What each key spent on completions in a day (days since 1970, UTC). `key` is the SHA-256 of the key's secret, or `local`.

CREATE TABLE spending (
    day INTEGER NOT NULL,
    key TEXT NOT NULL,
    cost REAL NOT NULL,
    completions INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    PRIMARY KEY (day, key)
) WITHOUT ROWID;
