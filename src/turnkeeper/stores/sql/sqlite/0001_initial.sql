-- The stored format of Turnkeeper in SQLite, schema 1.
--
-- Every number that stands for an enum is explained in `stores/sqlite_rows.py`; ids are 16-byte
-- blobs; times are Unix milliseconds. A session has a number of its own (`session.key`), an input
-- its admission number. Inputs and history are stored in order of arrival, with narrow indexes:
-- clustering them by session would dirty a page per session and table in every group.
--
-- A `seal` is a checksum of the other columns of its row: `stores/sqlite_seals.py` says how it is
-- taken, and that whoever changes a row by hand takes it anew.

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
    first_event INTEGER NOT NULL,      -- the first that is kept: those before it were pruned
    created INTEGER NOT NULL,
    owner_seal INTEGER NOT NULL,       -- of what commits leave alone: key, id, created, epoch,
                                       -- worker, inbox, first_event
    seal INTEGER NOT NULL              -- of the rest but `active`, which is counted
) STRICT;

-- What `due` looks for: sessions with an intent, and those with an active input (`input_active`).
-- (An index on `active > 0` would change twice a turn, and cost more than the whole input row.)
CREATE INDEX session_intent ON session (key) WHERE intent IS NOT NULL;

-- Sessions with work that nobody owns. No commit of an owner changes this index, nor the next one.
CREATE INDEX session_free ON session (key)
    WHERE worker IS NULL AND (active > 0 OR intent IS NOT NULL);
CREATE INDEX session_worker ON session (worker, key) WHERE worker IS NOT NULL;

CREATE TABLE snapshot (
    session INTEGER PRIMARY KEY,
    data BLOB NOT NULL,
    seal INTEGER NOT NULL
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
    body INTEGER,                      -- where it is: history.key; NULL once it was pruned
    mentions TEXT NOT NULL,            -- first_event of the rows that mention it: ,1,-6
                                       -- (negative: whose messages quote its body, which stays)
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,          -- milliseconds after created
    seal INTEGER NOT NULL              -- of all but `mentions`, which the events repeat
) STRICT;

CREATE UNIQUE INDEX input_place ON input (session, number);
CREATE UNIQUE INDEX input_key ON input (session, key) WHERE key IS NOT NULL;
-- Ids are UUIDv7, so that this index grows at its end whatever the session.
CREATE UNIQUE INDEX input_id ON input (id, session);
CREATE INDEX input_active ON input (session, number) WHERE state < 5;

-- What others than the owner have put in, and the owner has not decided about.
CREATE INDEX input_accepted ON input (session) WHERE state = 0;

-- What one commit adds, in one row: each part may be there or not, and is pruned alone. Long parts
-- come last, and a commit of many messages or bodies has further rows for them.
CREATE TABLE history (
    key INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    at INTEGER NOT NULL,
    first_event INTEGER,
    events BLOB,
    run BLOB,                          -- of a receipt
    sequence INTEGER,
    final INTEGER,
    outcome BLOB,                      -- the rest of the receipt; in a final one the turn's result
    first_message INTEGER,
    messages BLOB,                     -- consecutive; a number stands for the text of that input
    body BLOB,                         -- of a new input
    seal INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX history_event ON history (session, first_event) WHERE first_event IS NOT NULL;
CREATE UNIQUE INDEX history_message ON history (session, first_message)
    WHERE first_message IS NOT NULL;
-- Run ids are UUIDv7, so that this index grows at its end.
CREATE UNIQUE INDEX history_run ON history (run, session, sequence) WHERE run IS NOT NULL;

CREATE TABLE step (
    session INTEGER NOT NULL,
    turn BLOB NOT NULL,
    key TEXT NOT NULL,
    began INTEGER NOT NULL,            -- the revision whose commit began it, and its place there
    place INTEGER NOT NULL,
    arguments BLOB NOT NULL,
    done INTEGER NOT NULL,
    result BLOB,
    seal INTEGER NOT NULL,
    PRIMARY KEY (session, turn, key)
) STRICT, WITHOUT ROWID;

-- What other processes ask of a session's owner, and the answers, for an hour.
CREATE TABLE request (
    session INTEGER NOT NULL,
    id ANY NOT NULL,
    number INTEGER NOT NULL,           -- session.inbox at its delivery
    asked INTEGER NOT NULL,
    operation BLOB NOT NULL,
    taken INTEGER NOT NULL,            -- its intent is committed
    answer BLOB,
    seal INTEGER NOT NULL,
    PRIMARY KEY (session, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX request_waiting ON request (session, number) WHERE answer IS NULL;

-- Who has joined. One lives while the lock on its file is held, and its last life sign is good.
CREATE TABLE worker (
    id ANY NOT NULL PRIMARY KEY,
    lease INTEGER NOT NULL,            -- milliseconds that a life sign is good for
    until INTEGER NOT NULL,            -- when the last one ends; below 0: declared dead
    seal INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
