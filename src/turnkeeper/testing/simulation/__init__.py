"""A deterministic simulation of the whole runtime, and a checker that shares no code with it."""
