"""What one server takes on at most. Not settings: the same for every server, but for tests."""

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """The bounds of one server. Times are in seconds."""

    body_bytes: int = 8_000_000
    """Of a request's body: a text of 1,000,000 bytes fits, however it is escaped."""
    header_bytes: int = 64_000
    """Of a request's line and headers."""
    header_seconds: float = 10.0
    """In which a new connection sends its first request's headers, or a request under way its."""
    body_seconds: float = 30.0
    """In which a request's body arrives."""
    arriving_bytes: int = 256_000_000
    """Of all bodies that are arriving, together; past it the answer is 429."""
    connections: int = 12_000
    """Open at once, and fewer where the process may not have as many files open."""
    requests: int = 10_000
    """Requests in progress at once, streams included; one more is 429, but of how the server is."""
    streams: int = 5_000
    """Event streams at once; one more is 429."""
    stream_events: int = 256
    """Durable events that wait in memory for one reader; past it, it reads from the store."""
    send_seconds: float = 30.0
    """A reader that takes nothing for so long is cut off."""
    ping_seconds: float = 15.0
    """How often a silent stream shows that it lives."""
