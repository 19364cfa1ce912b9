"""What one turn is, the same for the floor and the product, and how much of it each bench runs."""

import hashlib
import itertools

from msgspec import Struct

TEXT = "Please look at the order that came in this morning and say what is still missing. " * 2
"""What a client submits: about 160 characters."""
REPLY = "Booked."
"""What the agent answers."""
SNAPSHOT_BYTES = 2_048


def _noise(seed: int) -> bytes:
    """A snapshot's worth of bytes that do not compress, the same in every run."""
    blocks = (hashlib.sha256(f"{seed}:{i}".encode()).digest() for i in range(SNAPSHOT_BYTES // 32))
    return b"".join(blocks)


next_snapshot = itertools.cycle([_noise(seed) for seed in range(16)]).__next__
"""A 2 KB snapshot that differs from the one before it."""


class Scale(Struct, frozen=True, kw_only=True):
    """How much is measured. The defaults are those of the issue; nothing else is judged."""

    pairs: int = 5
    """Alternated pairs of floor and product."""
    sessions: int = 1_000
    """Sessions of the burst and of the chain."""
    turns: int = 20
    """Turns of each of them."""
    sequential_turns: int = 400
    """Turns of one session, each submitted after the last one's result."""
    old_turns: int = 10_000
    """Age of the old session, in turns."""
    pending_sessions: int = 1_000
    """Sessions with pending inputs before a restart."""
    pending_inputs: int = 10
    """Pending inputs of each of them."""
    memory_sessions: int = 10_000
    """Sessions whose memory is measured."""
    writer_turns: int = 3_000
    """Turns that the writer alone commits per group size and pair."""


FULL = Scale()
QUICK = Scale(
    pairs=2,
    sessions=200,
    turns=10,
    sequential_turns=100,
    old_turns=1_000,
    pending_sessions=200,
    memory_sessions=1_000,
    writer_turns=600,
)
