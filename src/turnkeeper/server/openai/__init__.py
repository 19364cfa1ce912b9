"""The OpenAI-compatible API: responses and chat completions, made durable by a session underneath.

shapes.py       what goes over the wire, as far as this face means it
prompts.py      which part of a request becomes the input, and which session it goes to
following.py    the text of one input's turn, as it is streamed, and its end
responses.py    /v1/responses
chat.py         /v1/chat/completions
models.py       /v1/models
"""
