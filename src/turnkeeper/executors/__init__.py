"""Executors that Turnkeeper ships. Each is an optional extra; nothing else here needs one."""
