"""Programs that show Turnkeeper at work. Each runs offline, and a test runs each."""
