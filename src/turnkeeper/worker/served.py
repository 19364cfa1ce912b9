"""Which sessions a Runtime serves by name, beside those that it has in memory.

Decides nothing; it remembers what was asked for by name.
"""

from turnkeeper.core.ids import SessionId


class Served:
    """The names; each set is bounded by what callers have asked for by name."""

    def __init__(self, *, all_names: bool) -> None:
        self._all_names = all_names
        """There is an agent for every session."""
        self.registered: set[SessionId] = set()
        """Registered by name, where no agent is there to serve all."""
        self.standby: set[SessionId] = set()
        """Registered here while a live other worker owns them. [PROC-5]"""
        self.released: set[SessionId] = set()
        """Unregistered here: not taken again before somebody asks."""
        self.let_go: set[SessionId] = set()
        """Owned by this worker and given up: not found here before the next claim."""

    def register(self, session_id: SessionId) -> None:
        """Serve a session by name from now on."""
        if not self._all_names:
            self.registered.add(session_id)

    def includes(self, session_id: SessionId) -> bool:
        """Whether a session of this name is served where this worker owns it: all, with an agent;
        without one those that were registered.
        """
        return self._all_names or session_id in self.registered

    def claimed(self, session_id: SessionId) -> None:
        """The session is owned here now."""
        for apart in (self.let_go, self.standby, self.released):
            apart.discard(session_id)

    def unregistered(self, session_id: SessionId) -> None:
        """The session is nobody's business here any more."""
        for name in (self.standby, self.registered):
            name.discard(session_id)
