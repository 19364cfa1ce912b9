"""The demo: real prompts to a real model, a stop, a SIGKILL, and what became of every input.

    make demo

`script` is what happens; `worker` is the process that owns the sessions, `supervision` how this
process starts, asks and kills it, `screen` what you see. `verdict` decides whether all was kept:
from the lines that the worker printed as things happened, and from its store at the end.
"""
