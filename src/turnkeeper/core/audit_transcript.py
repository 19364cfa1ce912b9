"""The rules of a transcript, for a verification: its numbers and its digest chain.

Decides whether messages lead from digest to digest. Where a message is missing, the next receipt
says where the chain goes on, so that what follows is judged for itself.
"""

from turnkeeper.core.audit_inputs import Report
from turnkeeper.core.records import ReceiptRecord, SessionRow, StoredMessage
from turnkeeper.core.runs import EMPTY_DIGEST, next_digest
from turnkeeper.core.verdict import FindingCode

_F = FindingCode


class Chain:
    """A transcript as far as it has been read. [VER-4]"""

    def __init__(self, row: SessionRow, report: Report) -> None:
        self._row = row
        self._report = report
        self._count = 0
        self._head: bytes | None = EMPTY_DIGEST
        """None after a message that is missing."""

    def reaches(self, receipt: ReceiptRecord | None) -> bool:
        """Whether all messages that a receipt counts have been read."""
        return receipt is None or self._count >= receipt.message_count

    def add(self, message: StoredMessage) -> None:
        """The next message."""
        name = f"message {message.number}"
        if message.number <= self._count:
            self._report(_F.MESSAGE_GAP, name, "its number stands twice")
            self._head = None
        elif message.number > self._count + 1:
            what = f"the messages from {self._count + 1} on are missing before it"
            self._report(_F.MESSAGE_GAP, name, what)
            self._head = None
        if self._head is not None:
            self._head = next_digest(self._head, message.message)
        self._count = message.number
        if message.number == self._row.noticed and message.message.role != "system_notice":
            what = f"the first notice to hand over, by its row, is {name}, which is none"
            self._report(_F.WRONG_SESSION, "its row", what)

    def skip(self, number: int) -> None:
        """The next message, which does not decode, nor do those behind it in its row."""
        self._count = max(self._count, number)
        self._head = None

    def check(self, receipt: ReceiptRecord, name: str) -> None:
        """What a receipt says of the messages so far."""
        if receipt.message_count < self._count:
            what = f"it counts {receipt.message_count} messages, and {self._count} came before it"
            self._report(_F.WRONG_RECEIPT, name, what)
        elif receipt.message_count > self._count:
            what = f"it counts {receipt.message_count} messages, and there are {self._count}"
            self._report(_F.WRONG_RECEIPT, name, what)
        elif self._head not in (None, receipt.digest):
            what = f"its digest is not that of the first {self._count} messages"
            self._report(_F.BROKEN_DIGEST, name, what)
        self._head = receipt.digest

    def finish(self) -> None:
        """What the session's row says of the whole."""
        count = self._row.message_count
        if count > self._count:
            what = f"the messages from {self._count + 1} to {count} are missing"
            self._report(_F.MESSAGE_GAP, f"message {self._count + 1}", what)
        elif count < self._count:
            what = f"it counts {count} messages, and has {self._count}"
            self._report(_F.WRONG_SESSION, "its row", what)
        elif self._head not in (None, self._row.digest):
            what = f"its digest is not that of its {count} messages"
            self._report(_F.BROKEN_DIGEST, "its row", what)
        if self._row.noticed > max(count, self._count):
            what = f"the first notice to hand over is message {self._row.noticed}, past the end"
            self._report(_F.WRONG_SESSION, "its row", what)
