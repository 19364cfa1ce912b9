"""What Turnkeeper costs, beside a bare floor measured in the same run.

`python -m benchmarks [--quick] [name ...]` prints a table and ends with one line of verdict; its
exit code is 1 if a bar is missed. Absolute figures say something about the machine, ratios about
the product: only ratios, counts and sizes are judged.

    workload    what a turn is: its text, its reply, its 2 KB snapshot
    floor       the bare floor, frozen from the first version
    subjects    floor and product, opened alike
    drivers     the clients: one and the same code for both
    pairs       alternated pairs and timed runs
    counting    shims that count syncs, bytes, rows, commits, callbacks and calls, untimed
    report      figures, bars, the table, the verdict

The other modules are the benches.
"""
