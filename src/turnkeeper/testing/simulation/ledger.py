"""What happened in a life, written down as plain facts in their order.

Decides what a fact looks like. It is all that the checker gets, with the rows at the end.
"""

from collections.abc import Callable
from typing import Any

from turnkeeper.core.outcomes import CompletionOutcome
from turnkeeper.testing.simulation.actions import Action


class History:
    """What happened in one life."""

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []
        self.rows: dict[str, dict[str, Any]] = {}
        """Of each session all that is stored of it at the end."""
        self.trouble: list[str] = []
        """What went wrong beside every rule: an exception in the event loop, a loop that hangs."""


class Ledger:
    """Where facts are written down, and what the makers of later ones may look up."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.history = History()
        self.over = False
        """Nothing is written down any more: what still runs is being cleared away."""
        self._now = now
        self._attempts: dict[str, int] = {}
        self._submissions: dict[str, Action] = {}
        self._inputs: dict[str, str] = {}
        self._approvals: dict[str, list[str]] = {}
        self._runs: dict[str, str] = {}
        self._followers = 0

    def note(self, kind: str, **facts: Any) -> None:
        """Write down one fact."""
        if self.over:
            return
        facts["at"] = round(self._now(), 6)
        self.history.facts.append({"kind": kind, **facts})
        if kind == "run_begun":
            self._runs[facts["session"]] = facts["run"]
            if facts.get("approval"):
                self.named(asked_by(facts["approval"]["question"]), facts["inputs"][-1])

    def attempt(self, label: str) -> int:
        """How many attempts of `label` began before this one."""
        number = self._attempts.get(label, 0)
        self._attempts[label] = number + 1
        return number

    def submission(self, label: Any) -> Action | None:
        """The action that submitted `label` first, if it has come already."""
        return self._submissions.get(str(label))

    def input_of(self, label: str) -> str | None:
        """The newest input that is known to be of `label`."""
        return self._inputs.get(label)

    def newest_run(self, session: str) -> str | None:
        """The run of `session` that began last."""
        return self._runs.get(session)

    def submitted(self, action: Action) -> None:
        """An action has submitted its label."""
        self._submissions.setdefault(str(action.facts["label"]), action)

    def new_follower(self) -> int:
        """The number of one more who follows events."""
        self._followers += 1
        return self._followers

    def named(self, label: str, input_id: str) -> None:
        """A caller was told which input a label is."""
        self._inputs[label] = input_id

    def approvals_of(self, place: str) -> list[str]:
        """The approvals that callers know of a label, or of a session, the newest last."""
        return self._approvals.get(place, [])

    def knows(self, session: str, question: str, approval_id: str) -> None:
        """A caller was told of an approval."""
        label = asked_by(question)
        for place in (session, label):
            known = self._approvals.setdefault(place, [])
            if approval_id not in known:
                known.append(approval_id)
                self.named(label, approval_id)


def asked_by(question: str) -> str:
    """What stands for whatever has come of a label's question last: its label, with a mark."""
    return f"{question.partition('/')[0]}?"


def plain_outcome(outcome: CompletionOutcome) -> dict[str, Any]:
    """What a waiter was told."""
    plain: dict[str, Any] = {"outcome": type(outcome).__name__}
    for name in ("reason", "detail", "by", "input_still_active"):
        plain[name] = getattr(outcome, name, None)
    result = getattr(outcome, "result", None)
    plain["result"] = None if result is None else result.text
    plain["approvals"] = [] if result is None else list(result.approvals)
    return plain
