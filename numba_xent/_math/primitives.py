"""The operations that the formulas need beyond ``+ - * /`` and comparisons.

In plain Python they work on NumPy scalars, which is what the tests run; a backend replaces each by
one instruction for its own types. What they do there is what they do here.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

_INTEGER_OF = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64}
_FLOAT_OF = {np.dtype(np.int32): np.float32, np.dtype(np.int64): np.float64}


def fma(a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once."""
    kind = np.result_type(a, b, c).type
    if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
        return kind(a * b + c)
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return kind(a * b + c)  # the sign of zero
    try:
        near = kind(float(exact))
    except OverflowError:
        return kind(np.inf if exact > 0 else -np.inf)
    if kind is np.float32 and np.isfinite(near):
        # Rounded to float64 first, a tie may not have been one.
        for side in (-np.inf, np.inf):
            other = np.nextafter(near, np.float32(side))
            if np.isfinite(other) and _distance(other, exact) < _distance(near, exact):
                return other
    return near


def _distance(x: Any, exact: Fraction) -> Fraction:
    return abs(Fraction(float(x)) - exact)


def where(condition: Any, a: Any, b: Any) -> Any:
    """``a`` where the condition holds, else ``b``; both are evaluated."""
    return a if condition else b


def maximum(a: Any, b: Any) -> Any:
    """The larger of the two, NaN if either is NaN."""
    return np.maximum(a, b)


def bits(x: Any) -> Any:
    """The bit pattern of a float, as the signed integer of its width."""
    return x.view(_INTEGER_OF[x.dtype])


def from_bits(i: Any) -> Any:
    """The float that has this bit pattern: the inverse of :func:`bits`."""
    return i.view(_FLOAT_OF[i.dtype])


def to_float(i: Any) -> Any:
    """An integer converted to the float of its width."""
    return _FLOAT_OF[i.dtype](i)


def widen(x: Any) -> Any:
    """The same value in float64, the type in which rows are finished and merged."""
    return np.float64(x)
