"""Repairs of a SQLite store that lose nothing: what they write follows from what is there.

Decides what may be mended, and when: while no worker lives. Called inside a transaction.
"""

from typing import assert_never

import apsw

from turnkeeper.core.verdict import Finding, Mend
from turnkeeper.errors import Fenced
from turnkeeper.stores.sqlite_database import Database
from turnkeeper.stores.sqlite_history import unpack_events, unpack_messages
from turnkeeper.stores.sqlite_lives import Lives
from turnkeeper.stores.sqlite_ownership import living
from turnkeeper.stores.sqlite_rows import BROKEN

_RECOUNT = (
    "UPDATE session SET active = (SELECT count(*) FROM input WHERE session = ?1 AND state < 5)"
    " WHERE key = ?1"
)
_ROWS = (
    "SELECT first_event, events, messages FROM history WHERE session = ?1 AND first_event > 0"
    " UNION ALL SELECT 0, NULL, messages FROM history"
    " WHERE session = ?1 AND first_message > 0 AND first_event IS NULL"
)
_RELIST = "UPDATE input SET mentions = ? WHERE session = ? AND number = ?"


def mend(database: Database, lives: Lives, finding: Finding, now_ms: int) -> bool:
    """As `Store.mend` says."""
    alive = living(database.connection, lives, now_ms)
    if alive:
        raise Fenced(
            f"worker {min(alive)} lives: close every Runtime on this store before it is repaired"
        )
    database.writing = True
    match finding.mend:
        case Mend.RECOUNT:
            return database.change(_RECOUNT, (finding.session,)) == 1
        case Mend.RELIST:
            return _relist(database, finding)
        case Mend.REINDEX:
            return _reindex(database)
        case None:
            return False
        case _ as never:
            assert_never(never)


def _relist(database: Database, finding: Finding) -> bool:
    """Row 0, which there is not, stands for rows whose events were pruned: what their messages
    quote is kept.
    """
    number, mentions = finding.number, []
    try:
        for first, events, messages in database.execute(_ROWS, (finding.session,)):
            if messages is not None and any(n == number for _, n, _ in unpack_messages(messages)):
                mentions.append(f",-{first}")
            elif events is not None and any(n == number for _, n, _, _ in unpack_events(events)):
                mentions.append(f",{first}")
    except BROKEN:
        return False  # it would lose what the events that do not decode are about
    values = ("".join(mentions), finding.session, finding.number)
    return database.change(_RELIST, values) == 1


def _reindex(database: Database) -> bool:
    try:
        database.execute("REINDEX")
    except apsw.ConstraintError:
        return False  # two rows where one may be: which of them is right, nobody here knows
    return True
