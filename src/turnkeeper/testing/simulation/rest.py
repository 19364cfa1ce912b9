"""Whether a life is at rest: nothing is left to do in any of its sessions.

Decides what counts as work.
"""

from collections.abc import Callable

from turnkeeper.core.approvals import is_approval
from turnkeeper.core.inputs import Kind
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.core.records import InputRecord
from turnkeeper.store import Store

Test = Callable[[InputRecord], bool]


def is_asked(record: InputRecord) -> bool:
    """Whether an input is an approval that waits for a person."""
    waits = record.state is InputLifecycleState.QUEUED and record.due_at_ms is not None
    return waits and not record.attempt_count and is_approval(record.input)


async def work_left(
    store: Store, sessions: tuple[str, ...], ignored: Test | None
) -> tuple[bool, int]:
    """Whether something is still to be done, and how many commits there were.

    `ignored`: inputs that are no work, besides those that start no run.
    """
    left, revisions = False, 0
    for session in sessions:
        row = await store.load_session(session)
        if row is None:
            continue
        revisions += row.revision
        left = left or row.run is not None or row.intent is not None
        if row.active:
            for record in await store.load_inputs(session, active=True):
                rides = record.kind is Kind.PEER_RESPONSE_PROGRESS
                left = left or not (rides or (ignored is not None and ignored(record)))
    return left, revisions
