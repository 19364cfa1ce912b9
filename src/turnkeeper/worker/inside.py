"""Who is asking: a session's own run or `control`, or somebody outside.

Decides what a turn may not wait for: its own session.
"""

from contextvars import Context, ContextVar

from turnkeeper.core.ids import SessionId
from turnkeeper.errors import WouldDeadlock

_inside: ContextVar[tuple[SessionId, ...]] = ContextVar("turnkeeper_inside", default=())


def entered(session_id: SessionId) -> None:
    """This task, and those that it starts, belong to a run or `control` of the session.

    To that one alone: whoever set the run off is not waiting in it.
    """
    _inside.set((session_id,))


def left() -> None:
    """This task belongs to no run, though one has set it off."""
    _inside.set(())


def sessions() -> tuple[SessionId, ...]:
    """The sessions whose run or `control` the caller is."""
    return _inside.get()


def is_inside(session_id: SessionId) -> bool:
    """Whether the caller is this session's own run or `control`."""
    return session_id in _inside.get()


def is_agents(context: Context | None) -> bool:
    """Whether a task that begins in `context`, or in the caller's, is started by an agent."""
    return bool(_inside.get() if context is None else context.get(_inside, ()))


def refuse_own_session(session_id: SessionId, what: str) -> None:
    """Raise `WouldDeadlock` where a session's run would wait for its own session. [CTL-5]"""
    if is_inside(session_id):
        raise WouldDeadlock(
            f"a turn of session {session_id!r} cannot {what}: it would wait for ever"
        )
