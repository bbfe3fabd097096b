"""Which backend computes on a kind of array.

There is one, for NumPy arrays; it is imported when it is first needed, because compilers are slow
to import. Forks are watched from the beginning.
"""

from __future__ import annotations

import functools
from types import ModuleType

from . import _process  # noqa: F401 - it watches from now on


@functools.cache
def backend() -> ModuleType:
    """The module whose ``solve`` computes a problem."""
    from ._cpu import backend as cpu  # noqa: PLC0415

    return cpu
