"""Requests that a client's SDK sends again by itself, without an `Idempotency-Key`.

Decides when a repeat is certain. The SDKs that Stainless makes, OpenAI's among them, number their
retries in a header. A retry whose bytes are those of exactly one earlier request of the same caller
is that request. Only this process remembers it, for ten minutes.
"""

import hashlib
from collections import OrderedDict

from msgspec import Struct

from turnkeeper.core.ids import SessionId
from turnkeeper.server.calls import Call

RETRY_HEADER = "X-Stainless-Retry-Count"
REMEMBERED_SECONDS = 600.0
REMEMBERED_MAX = 10_000


class _First(Struct):
    at: float
    key: str
    session_id: SessionId
    certain: bool = True
    """No other request of the same bytes has come in the meantime."""


class Repeats:
    """The first requests of one server that may be sent again."""

    def __init__(self) -> None:
        self._first: OrderedDict[bytes, _First] = OrderedDict()

    def place(self, call: Call, session_id: SessionId, key: str) -> tuple[SessionId, str | None]:
        """Return the session and the idempotency key of a request that brings no key itself.

        `session_id` and `key` are for a new one. The key is None where the request says nothing of
        retries: then nothing is remembered.
        """
        count = call.header(RETRY_HEADER)
        if count is None or not (count.isascii() and count.isdigit()):
            return session_id, None
        now = call.service.monotonic()
        self._forget(now)
        who = "" if call.key is None else call.key.id
        print_ = hashlib.sha256(f"{who} {call.operation.path} ".encode() + call.raw).digest()
        known = self._first.get(print_)
        if int(count[:9]) > 0 and known is not None and known.certain:
            return known.session_id, known.key
        if known is None:
            self._first[print_] = _First(now, key, session_id)
        elif int(count[:9]) == 0:
            known.certain = False
            known.at = now
            self._first.move_to_end(print_)
        return session_id, key

    def _forget(self, now: float) -> None:
        while self._first:
            oldest = next(iter(self._first.values()))
            if len(self._first) < REMEMBERED_MAX and now - oldest.at < REMEMBERED_SECONDS:
                return
            self._first.popitem(last=False)
