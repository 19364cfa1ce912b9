-- Schema 2: results of steps past 64 KB have a row of their own, so that a turn's steps are read
-- without them. Such a step has 4 in `step.done`, and no result beside it.

CREATE TABLE step_result (
    session INTEGER NOT NULL,
    turn BLOB NOT NULL,
    key TEXT NOT NULL,
    data BLOB NOT NULL,
    seal INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX step_result_place ON step_result (session, turn, key);
