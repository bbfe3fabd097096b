"""The demo: train a linear classifier with nothing but NumPy and this library.

The modules, in the order of a run: `options` (the command line), `data` (reading, checking and
splitting the examples), `training` (the model), `report` and `plot` (what is shown),
and `run`, which joins them.
"""


class DemoError(Exception):
    """The demo cannot do what it was asked to do; the message says why in one line."""
