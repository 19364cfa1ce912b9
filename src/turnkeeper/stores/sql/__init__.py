"""The schemas of the stores that speak SQL: a folder of numbered migrations for each."""
