"""Which backend computes on a kind of array.

There is one, for NumPy arrays; it is imported when it is first needed, because compilers are slow
to import.
"""

from __future__ import annotations

import functools
from types import ModuleType


@functools.cache
def backend() -> ModuleType:
    """The module whose ``solve`` computes a problem."""
    from ._cpu import backend as cpu  # noqa: PLC0415

    return cpu
