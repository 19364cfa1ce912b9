"""The demo: real prompts to a real model, a stop, a SIGKILL, and what became of every input.

    make demo

`script` is what happens; `client` is this process's side of the sessions, `worker` the process that
owns and runs them, `supervision` how it is started and killed, `screen` what you see. `verdict`
decides whether all was kept: from what the client was told as things happened, and from the store
at the end.
"""
