"""Turnkeeper: the durable runtime between an AI agent and its callers."""
