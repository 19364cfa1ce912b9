"""What a verification says: its findings, what mends some of them, and the report of all.

Decides the words. The rules are in `audit`, the order of the work is `verify`'s.
"""

from enum import StrEnum

from msgspec import Struct

from turnkeeper.core.ids import SessionId

FINDINGS_MAX = 1_000
"""A report names so many findings; it counts the rest."""
PENDING_MAX = 100
"""Of what is no damage it names so many, so that they hide none: after a crash there may be as many
as sessions."""


class Mend(StrEnum):
    """A repair that loses nothing: what it writes can be worked out from what is there."""

    RECOUNT = "recount"
    """Count a session's active inputs anew."""
    RELIST = "relist"
    """List anew, in an input's row, the events that mention it."""
    REINDEX = "reindex"
    """Build the store's indexes anew from its tables."""


class Damage(Struct, frozen=True, kw_only=True):
    """What a store itself finds wrong: a row that is not as it was written, or cannot be read."""

    row: str
    """Which one, in the store's words."""
    what: str
    session: int | None = None
    """The key of its session, where it has one."""
    number: int = 0
    """Its number within the session: what the page after it begins past."""
    mend: Mend | None = None


class FindingCode(StrEnum):
    """What is wrong."""

    DAMAGED_ROW = "damaged_row"
    """A row is not as it was written, or does not decode."""
    UNREADABLE = "unreadable"
    """A part of the store cannot be read at all."""
    MISSING_INPUT = "missing_input"
    """Events name an input that has no row."""
    STRAY_INPUT = "stray_input"
    """An input's row whose acceptance is among no events."""
    WRONG_INPUT = "wrong_input"
    """An input's row contradicts itself, its body or its events."""
    ILLEGAL_STEP = "illegal_step"
    """A history holds a step that the table of states does not have."""
    WRONG_CONSUMPTION = "wrong_consumption"
    """An input was not consumed once, by exactly one final receipt."""
    WRONG_RECEIPT = "wrong_receipt"
    """A receipt is missing, out of order, or contradicts its run."""
    BROKEN_DIGEST = "broken_digest"
    """The chain over the transcript does not lead where a receipt or the session says."""
    MESSAGE_GAP = "message_gap"
    """Messages are missing, or one stands twice."""
    EVENT_GAP = "event_gap"
    """Events are missing, or stand twice."""
    WRONG_SESSION = "wrong_session"
    """A session's row contradicts its events or its inputs."""
    DEAD_SESSION = "dead_session"
    """A stopped or destroyed session has work left."""
    MISSING_STEP = "missing_step"
    """A durable step has no row, or one that has lost its end."""
    STALE_OWNER = "stale_owner"
    """A run in progress whose worker does not live: nothing is lost, the next claim recovers it."""


ADVICE: dict[FindingCode, str] = {
    FindingCode.DAMAGED_ROW: "restore the row from a backup; check the disk",
    FindingCode.UNREADABLE: "restore the store from a backup; check the disk",
    FindingCode.MISSING_INPUT: "restore the row from a backup; ask the caller to submit it again",
    FindingCode.STRAY_INPUT: "restore the session's events from a backup",
    FindingCode.WRONG_INPUT: "trust the events; restore the row from a backup",
    FindingCode.ILLEGAL_STEP: "restore the session from a backup, and report a bug",
    FindingCode.WRONG_CONSUMPTION: "check whether its effects happened; then requeue it or not",
    FindingCode.WRONG_RECEIPT: "restore the session from a backup",
    FindingCode.BROKEN_DIGEST: "compare the transcript with a backup",
    FindingCode.MESSAGE_GAP: "restore the transcript from a backup",
    FindingCode.EVENT_GAP: "restore the session's events from a backup",
    FindingCode.WRONG_SESSION: "restore the session's row from a backup",
    FindingCode.DEAD_SESSION: "register the session: its claim abandons what is left",
    FindingCode.MISSING_STEP: "find out whether the step was done before its turn is requeued",
    FindingCode.STALE_OWNER: "nothing, or start a Runtime: its claim recovers the session",
}
"""What to do about each, unless a repair is offered."""

_PENDING = frozenset({FindingCode.STALE_OWNER})


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that is not as it must be."""

    code: FindingCode
    session_id: SessionId | None = None
    """None where it is about the store, or about a row whose session is unknown."""
    row: str
    """Exactly which row: an input, event, message, receipt, or a table's row by its key."""
    what: str
    mend: Mend | None = None
    """The repair that is offered."""
    session: int | None = None
    """The session's key: for the repair."""
    number: int = 0
    """The input's number: for the repair."""

    @property
    def is_pending(self) -> bool:
        """Whether it is no damage: what a crash leaves, and the next claim puts in order."""
        return self.code in _PENDING

    @property
    def advice(self) -> str:
        """What to do now."""
        if self.mend is not None:
            return f"repair offers to {self.mend.value} it, which loses nothing"
        return ADVICE[self.code]

    def __str__(self) -> str:
        where = "" if self.session_id is None else f"session {self.session_id!r}: "
        return f"{where}{self.row}: {self.what} [{self.code.value}]; {self.advice}"


class Checked(Struct, kw_only=True):
    """How much was read."""

    sessions: int = 0
    inputs: int = 0
    events: int = 0
    receipts: int = 0
    messages: int = 0
    steps: int = 0


class VerifyReport(Struct, frozen=True, kw_only=True):
    """The verdict on a store, as of one moment."""

    checked: Checked
    findings: tuple[Finding, ...] = ()
    """At most `FINDINGS_MAX`, in the order in which they were met."""
    further: int = 0
    """How many more there are that are damage."""
    further_pending: int = 0
    """How many more there are that are none."""

    @property
    def is_sound(self) -> bool:
        """Whether everything holds. What waits for a recovery is no damage. [VER-1]"""
        return not self.further and all(finding.is_pending for finding in self.findings)

    @property
    def mends(self) -> tuple[Finding, ...]:
        """The findings that `repair` would mend."""
        return tuple(finding for finding in self.findings if finding.mend is not None)


class RepairReport(Struct, frozen=True, kw_only=True):
    """What a repair did."""

    mended: tuple[Finding, ...] = ()
    left: tuple[Finding, ...] = ()
    """Those that it could not mend: what they rest on is damaged as well, or has changed since."""
