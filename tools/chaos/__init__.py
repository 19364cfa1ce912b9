"""Several processes on one SQLite file, killed, stopped and continued until something gives way.

    make chaos                                  # in full, some six minutes
    python -m tools.chaos --seed 7 --kills 10   # shorter, from a seed

`director` starts the processes and does the damage, from a seed. `worker` is a Runtime whose agent
writes down what it does, `caller` a Runtime without an agent that submits, retries, waits, cancels
and interrupts. All write to a `log`, outside the store. `judge` reads these lines and the rows of
the file at the end, with nothing of the product in its hands, and says what does not fit. Then the
product's own `verify` is asked as well.
"""
