"""The benchmark: each kernel against the speed of memory, and against other libraries.

The modules, from the bottom up: `cases` (what is measured), `operands` (its arrays), `probe` (the
speed of memory), `calls` (our functions), `timing` (rounds and their statistics), `results` (what
was measured, and its file), `sections` (which calls meet which); `peers`, `worker` and `contest`
(other libraries, each in a process of its own); `machine`, `report` and `plot` (what is shown),
`options` (the command line) and `run`, which joins them.
"""


class BenchError(Exception):
    """The benchmark cannot do what it was asked to do; the message says why in one line."""
