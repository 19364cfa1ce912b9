"""The OpenAI-compatible API: responses and chat completions, made durable by a session underneath.

shapes.py       the types of requests and answers
fields.py       every field of a request, and what becomes of it
prompts.py      which part of a request becomes the input, and which session it goes to
repeats.py      requests that a client's SDK sends again by itself
following.py    the text of one input's turn, as it is streamed, and its end
responses.py    /v1/responses
chat.py         /v1/chat/completions
models.py       /v1/models
"""
