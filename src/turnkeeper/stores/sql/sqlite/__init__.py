"""The numbered migrations of the SQLite store, oldest first. A released one is never edited."""
