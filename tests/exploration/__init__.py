"""Every interleaving in small worlds: `explorer` goes through them, `worlds` says what they are.

A `State` is what is stored, in a `Disk`, and what memory holds. A move leads from one to the next
by one decision of the real core and one `evolve`. `state_checks` and `step_checks` say what must
hold, `coverage` what must have been reached.
"""
