"""Ring 1, pure: what a session is and what may happen to it. No I/O, clock, asyncio or logging."""
