"""RING 3, the asyncio shell: it carries out what the core decides.

`dispatcher` says whose step it is, `actor` takes one session's steps, `run` is one run as a task,
`tasks` is the only place that makes tasks.
"""
