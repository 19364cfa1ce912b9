-- The stored format of Turnkeeper in SQLite, schema 1.
--
-- Every number that stands for an enum is explained in `stores/sqlite_rows.py`; ids are 16-byte
-- blobs; times are Unix milliseconds. A session has a number of its own (`session.key`), an input
-- its admission number. What is updated in place is clustered by session; history is appended, in
-- order of arrival, with a narrow index: clustering it would dirty a page per session and table.

CREATE TABLE session (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    worker ANY,                        -- its owner, as in worker.id
    phase INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    intent INTEGER,
    drain_until INTEGER,
    run BLOB,                          -- the run in progress, or NULL
    turn BLOB,                         -- its turn, or NULL where that has the run's own id
    run_started INTEGER,
    run_sequence INTEGER,
    open_turn BLOB,
    open_due INTEGER,
    inbox INTEGER NOT NULL,
    active INTEGER NOT NULL,           -- inputs that are not terminal
    message_count INTEGER NOT NULL,
    digest BLOB NOT NULL,
    noticed INTEGER NOT NULL,
    has_snapshot INTEGER NOT NULL,
    due_at INTEGER,
    last_commit BLOB,                  -- the newest commit, and what it was answered:
    last_number INTEGER NOT NULL,
    last_event INTEGER NOT NULL,
    next_number INTEGER NOT NULL,
    next_event INTEGER NOT NULL,
    created INTEGER NOT NULL
) STRICT;

-- What `due` looks for: sessions that have something to do.
CREATE INDEX session_busy ON session (key) WHERE active > 0 OR intent IS NOT NULL;

CREATE TABLE snapshot (
    session INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

-- The key stays here with its fingerprint, and so does the outcome, when body and events go.
CREATE TABLE input (
    session INTEGER NOT NULL,
    number INTEGER NOT NULL,
    id BLOB NOT NULL,
    key TEXT,
    fingerprint BLOB,
    kind INTEGER NOT NULL,
    state INTEGER NOT NULL,            -- below 5: active
    policy INTEGER,
    lane INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    place INTEGER,                     -- NULL: its number
    due_at INTEGER,
    expires_at INTEGER,
    ephemeral INTEGER NOT NULL,
    turn BLOB,                         -- NULL: last_run, if there is one
    last_run BLOB,
    last_sequence INTEGER,
    attempt_count INTEGER NOT NULL,
    failure_count INTEGER NOT NULL,
    recovery_count INTEGER NOT NULL,
    rest BLOB,                         -- what few inputs have: how it ended, successor, sources
    body INTEGER,                      -- body.key; NULL once that was pruned
    mentions TEXT NOT NULL,            -- the first numbers of the event rows that mention it: ,1,6
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,          -- milliseconds after created
    PRIMARY KEY (session, number)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX input_key ON input (session, key) WHERE key IS NOT NULL;
-- Ids are UUIDv7, so that this index grows at its end whatever the session.
CREATE UNIQUE INDEX input_id ON input (id, session);
CREATE INDEX input_active ON input (session, number) WHERE state < 5;

CREATE TABLE body (
    key INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

-- Consecutive messages of one commit: a number stands for the text of that input.
CREATE TABLE message (
    session INTEGER NOT NULL,
    first INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX message_place ON message (session, first);

-- The events of one commit.
CREATE TABLE event (
    session INTEGER NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    at INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX event_place ON event (session, first);

-- Run ids are UUIDv7: this is the order of arrival, and needs no second index.
CREATE TABLE receipt (
    run BLOB NOT NULL,
    session INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    final INTEGER NOT NULL,
    boundary INTEGER NOT NULL,
    message_count INTEGER NOT NULL,
    digest BLOB,
    inputs BLOB NOT NULL,              -- their numbers
    result BLOB,                       -- of a final receipt: the turn's result, if it has one
    PRIMARY KEY (run, session, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE step (
    session INTEGER NOT NULL,
    turn BLOB NOT NULL,
    key TEXT NOT NULL,
    began INTEGER NOT NULL,            -- the revision whose commit began it, and its place there
    place INTEGER NOT NULL,
    arguments BLOB NOT NULL,
    done INTEGER NOT NULL,
    result BLOB,
    PRIMARY KEY (session, turn, key)
) STRICT, WITHOUT ROWID;

-- Who has joined. Whether one of them lives, the lock on its file says.
CREATE TABLE worker (
    id ANY NOT NULL PRIMARY KEY,
    lease INTEGER NOT NULL,            -- milliseconds that a life sign is good for
    until INTEGER NOT NULL             -- when the last one ends; for people to read
) STRICT, WITHOUT ROWID;
