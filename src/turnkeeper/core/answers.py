"""Requests of other processes, decided: each answer is in the commit of the effect.

Decides how a decision and the answer to who asked for it become one commit.
"""

from collections.abc import Callable

from msgspec.structs import replace

from turnkeeper.core.draft import Context, Decision, Draft
from turnkeeper.core.records import RequestRecord
from turnkeeper.core.requests import pack_answer
from turnkeeper.core.session import ActiveSession
from turnkeeper.errors import TurnkeeperError

Decide = Callable[[ActiveSession, Context], Decision]


def answering(request: RequestRecord | None, decide: Decide) -> Decide:
    """`decide`, with its report as the answer to `request`, if there is one. [REQ-3]

    What changes nothing is committed all the same, for the answer.
    """
    if request is None:
        return decide

    def decided(session: ActiveSession, context: Context) -> Decision:
        decision = decide(session, context)
        report = decision.report
        if decision.commit is None:
            decision = Draft(session, context).decide(report=report)
        assert decision.commit is not None
        decision.commit.requests = (replace(request, answer=pack_answer(report)),)
        return decision

    return decided


def answer_with(request: RequestRecord, error: TurnkeeperError) -> Decide:
    """Answer that the operation was refused, or has failed; nothing else changes. [REQ-3]"""

    def decide(session: ActiveSession, context: Context) -> Decision:
        draft = Draft(session, context)
        draft.requests = (replace(request, answer=pack_answer(error)),)
        return draft.decide()

    return decide
