"""Which examples a unit has, and where they lie.

The units of an outer index have `group` neighbouring examples each, but for the last one, and for
the first one if it lacks some.
"""

from __future__ import annotations

from typing import Any

from .compile import inlined
from .intrinsics import pointer


@inlined
def examples_before(p: Any, u: int) -> int:
    """How many examples of an outer index lie in the units before one."""
    return max(0, u * p.group - p.missing)


@inlined
def examples_of(p: Any, u: int) -> int:
    """How many examples a unit has."""
    return min(p.inner, (u + 1) * p.group - p.missing) - examples_before(p, u)


@inlined
def full_units(p: Any) -> tuple[int, int]:
    """The first unit of each outer index that may be in a panel, and the first after it that may not.

    They lack no example, unless panels are made of runs.
    """
    if p.run != 0:
        return 0, p.units
    return min(1, p.missing), p.units - (p.units * p.group > p.inner + p.missing)


@inlined
def start_of(p: Any, t: Any, o: int, u: int) -> Any:
    """Where a unit's elements of a tensor begin."""
    return pointer(t.address) + (o * t.outer + examples_before(p, u) * t.example)
