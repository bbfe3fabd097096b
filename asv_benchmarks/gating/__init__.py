"""The parts of ``gate.py``: two revisions, measured in turn.

From the bottom up: :mod:`.worker` (the process that one revision runs in), :mod:`.environments`
(where it is installed), :mod:`.contest` (turns of two workers), :mod:`.verdict` (what their numbers
come to) and :mod:`.report` (the table).
"""


class GateError(Exception):
    """The gate cannot do what it was asked to do; the message says why."""
