"""What all requests of one server share: the Runtime, who is let in, the bounds, the closing."""

from collections.abc import Mapping

from turnkeeper.runtime import Runtime
from turnkeeper.server.auth import Guard
from turnkeeper.server.feeds import Feeds
from turnkeeper.server.limits import Limits
from turnkeeper.server.metrics import Metrics
from turnkeeper.server.openai.repeats import Repeats
from turnkeeper.server.problems import Refused
from turnkeeper.server.webhooks import Hook
from turnkeeper.worker.tasks import Tasks


class Service:
    """One server's state. It holds no session: those are the Runtime's."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        guard: Guard | None = None,
        hooks: Mapping[str, Hook] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.runtime = runtime
        self.store = runtime.worker.store
        """Read also while the Runtime is closing: for turns that get the drain. [SRV-14]"""
        self.guard = Guard(None) if guard is None else guard
        self.hooks = dict(hooks or {})
        self.limits = Limits() if limits is None else limits
        self.monotonic = runtime.worker.monotonic
        self.now_ms = runtime.worker.now_ms
        self.new_id = runtime.worker.environment.new_id
        self.metrics = Metrics()
        self.tasks = Tasks()
        self.repeats = Repeats()
        self.feeds = Feeds(runtime, self.tasks, self.limits)
        self.requests = 0
        """In progress."""
        self.arriving_bytes = 0
        """Of the bodies that are arriving."""

    def begin_close(self) -> None:
        """Take no new input, and end every stream. May be called more than once. [SRV-14]"""
        self.feeds.close("the server is stopping")

    @property
    def closing(self) -> bool:
        """Whether the server is stopping."""
        return self.feeds.closed

    def check_open(self) -> None:
        """Raise `Refused` while the server is stopping."""
        if self.closing:
            raise Refused("closing", "the server is stopping; send it again, to who comes next")

    async def end(self) -> None:
        """Join what is left of the streams."""
        self.begin_close()
        await self.tasks.cancel(1.0)
