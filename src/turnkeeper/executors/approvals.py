"""What an adapter's runs have asked people: which calls wait, and when the run may go on.

The questions of one run are one group: its calls are carried out, or refused, once all of them are
decided. What was asked and decided lies in the session's snapshot; who may decide, how long there
is time for it, and that it is decided once, is the core's business.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.core.approvals import ApprovalAnswer, ApprovalDecision, ApprovalQuestion
from turnkeeper.core.ids import RunId
from turnkeeper.errors import NonRetryable

GIVEN_UP_KEPT = 100
"""Questions of one session that are remembered though they are decided and the turn that was told
so was given up: it may be requeued, and has made some of the calls. The newest are kept."""
WAITING = "A person has to approve this call first. It has not been made."
"""What a model is told of a call that waits."""
NO_ARGUMENTS = "The call was not made: the value that was approved is no JSON object of arguments."


class Decided(Struct, frozen=True, array_like=True):
    """What came of a question."""

    approved: bool
    words: str = ""
    """What the model is told where it was not approved."""
    value: Any = None
    """What who approved has given besides."""

    @property
    def told(self) -> str:
        """What the model is told of a call that is not made."""
        return self.words or NO_ARGUMENTS

    @property
    def given(self) -> dict[str, Any] | None:
        """Of a call that was approved: arguments in the place of the model's, {} for those.

        None for a call that is not to be made.
        """
        if not self.approved:
            return None
        if self.value is None:
            return {}
        return self.value if isinstance(self.value, dict) else None


class Asked(Struct, array_like=True):
    """A question of one run."""

    group: RunId
    """The run that has asked."""
    calls: tuple[str, ...]
    """Ids of the model's calls that wait for it."""
    kind: str = ""
    """The adapter's own distinction."""
    decided: Decided | None = None


class Question(Struct, frozen=True, kw_only=True):
    """What a framework wants a person to decide."""

    key: str
    """Its name within the session: the id of the call, where it is about one."""
    text: str
    details: dict[str, Any]
    calls: tuple[str, ...]
    kind: str = ""


class _Details(Struct, frozen=True):
    """What the core brings back of a question."""

    key: str
    group: RunId
    calls: tuple[str, ...]
    kind: str = ""


def about_call(call_id: str, tool: str, arguments: str, kind: str = "") -> Question:
    """The question whether a tool may be called; `arguments` is JSON."""
    try:
        given = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        given = arguments
    return Question(
        key=call_id,
        text=f"May {tool} be called with {arguments or '{}'}?",
        details={"tool": tool, "arguments": given, "call_id": call_id},
        calls=(call_id,),
        kind=kind,
    )


class Questions:
    """Those of one session, as one run finds them."""

    def __init__(
        self, asked: dict[str, Asked], answer: ApprovalAnswer | None, *, continuation: bool
    ) -> None:
        self._asked = asked
        self._continuation = continuation
        self._calls: frozenset[str] = frozenset()
        self.new: list[Question] = []
        """What this run has met that a person has to decide; for an adapter to gather."""
        self.details: dict[str, Any] = {}
        """Of the question that this turn answers."""
        group = self._take(answer)
        self.is_answer = group is not None
        """This turn answers one of them."""
        self._waiting: set[RunId | None] = {q.group for q in asked.values() if q.decided is None}
        self._waiting.add(group)
        given_up = [key for key, q in asked.items() if q.group not in self._waiting]
        for key in given_up[: max(0, len(given_up) - GIVEN_UP_KEPT)]:
            del asked[key]
        self.group = {key: question for key, question in asked.items() if question.group == group}
        """Those that were asked together with it, itself included."""
        self.calls = self._calls.union(*(question.calls for question in self.group.values()))
        """The calls that they are about."""

    def _take(self, answer: ApprovalAnswer | None) -> RunId | None:
        if answer is None or not isinstance(answer.details, dict):
            return None
        try:
            details = msgspec.convert(answer.details.get("asked"), _Details)
        except msgspec.ValidationError:
            return None  # another executor has asked
        question = self._asked.get(details.key)
        if question is not None and question.group != details.group:
            return None  # another call has its name now, and this is no decision about that one
        self.details = answer.details
        self._calls = frozenset(details.calls)
        if question is None and not self._continuation:  # another executor's snapshot came between
            question = self._asked[details.key] = Asked(details.group, details.calls, details.kind)
        if question is not None:  # else this turn has settled it before
            question.decided = _decided(answer)
        return details.group

    @property
    def left(self) -> int:
        """Of the group, those that are not decided yet."""
        return sum(question.decided is None for question in self.group.values())

    @property
    def decided(self) -> dict[str, Decided]:
        """What was decided, by key."""
        return {
            key: question.decided
            for key, question in self.group.items()
            if question.decided is not None
        }

    def waits(self, call_id: str) -> bool:
        """Whether a call waits for a person."""
        return any(q.decided is None and call_id in q.calls for q in self._asked.values())

    def check_calls(self, call_ids: Iterable[str]) -> None:
        """Raise `NonRetryable` for calls which a person could not decide about one by one. [ADP-12]

        They are those of a response that is about to be committed: it is not, so that an id which
        waits for a person is one call's alone in the transcript.
        """
        for call_id, times in Counter(call_ids).items():
            if times > 1:
                raise NonRetryable(
                    f"the model has given {times} calls of one response the id {call_id!r}: nobody "
                    "could say which of them a decision, or an answer, is about"
                )
            held = {key: q for key, q in self._asked.items() if call_id in q.calls}
            if any(question.group in self._waiting for question in held.values()):
                raise NonRetryable(
                    f"the model has given a call the id {call_id!r}, under which another one waits "
                    "for a person; requeue this turn's input once that is decided"
                )
            for key in held:  # the turn that was told of it was given up, and the id is free
                del self._asked[key]

    def ask(
        self, run_id: RunId, questions: Sequence[Question], expires_seconds: float
    ) -> list[ApprovalQuestion]:
        """Remember what is asked; gives it as an output has it."""
        asked: list[ApprovalQuestion] = []
        for question in questions:
            self._asked[question.key] = Asked(run_id, question.calls, question.kind)
            mark = _Details(question.key, run_id, question.calls, question.kind)
            details = {**question.details, "asked": msgspec.to_builtins(mark)}
            asked.append(ApprovalQuestion(question.text, details, expires_seconds))
        return asked

    def settle(self, *keys: str) -> None:
        """What was decided about them is in the transcript now."""
        for key in keys:
            if self.group.pop(key, None) is not None:
                del self._asked[key]


def _decided(answer: ApprovalAnswer) -> Decided:
    if answer.approved:
        return Decided(approved=True, value=answer.value)
    if answer.decision is ApprovalDecision.EXPIRED:
        return Decided(
            approved=False, words="Nobody has approved this call in time. It was not made."
        )
    said = f" They say: {answer.comment}" if answer.comment else ""
    return Decided(approved=False, words=f"A person has denied this call. It was not made.{said}")
