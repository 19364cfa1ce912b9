"""The service: any agent as a durable HTTP service. It needs the extra `server`.

routes.py       every operation, in one table: routing and OpenAPI come from it
app.py          what happens around a handler, the same for all
calls.py        the rows of the table, and how a request is read     pages.py    lists in pages
inputs.py, sessions.py, upkeep.py, openai/     the handlers
feeds.py, streaming.py     following a session
problems.py     errors as problem documents     openapi.py, viewer.py     the description
auth.py, webhooks.py      who is let in
limits.py       the bounds                      metrics.py     what is counted
service.py      what all requests share
listening.py    the process: where it listens, how it stops
"""
