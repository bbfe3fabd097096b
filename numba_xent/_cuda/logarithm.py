"""The logarithm of a sum of exponentials without float64, for kernels that compute in float32.

GPUs for graphics have 1/64 of the float64 units, and every GPU divides by a subroutine. The formula
is that of ``_math.exponential.log_of_sum``, in pairs of float32: what it returns is exact to about
2**-28 of itself, before it is rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._math.compensated import two_product, two_sum
from .._math.constants import constants
from .._math.primitives import bits, fma, from_bits, to_float, widen
from .device import reciprocal, to_int32

# log(f) = 2 atanh(u) with u = (f - 1) / (f + 1), |u| < 0.1716: the odd series, highest first.
_ATANH = tuple(np.float32(2.0 / (2 * i + 1)) for i in range(4, 0, -1))
_LN2_HIGH = np.float32(float.fromhex("0x1.62e4p-1"))  # 16 bits: a multiple of k is exact
_LN2_LOW = np.float32(float.fromhex("0x1.7f7d1cp-20"))
_ROOT_HALF_BITS = np.float32(0.5**0.5).view(np.int32)
_EXPONENT_SHIFT = np.int32(23)
_HALF = np.float32(0.5)
_TWO = np.float32(2)


def log_of_sum(count: Any, rest: Any, rest_low: Any) -> Any:
    """``log(count + rest)`` for ``count >= 1`` and ``rest >= 0`` that are float32 in float64.

    What `rest` has lost is 0. Accurate also where ``count`` is 1 and `rest` is tiny:
    ``log(y + lost) = log(y) + lost / y``.
    """
    y, lost = two_sum(np.float32(count), np.float32(rest))
    one = constants(y).one
    inverse = reciprocal(y)
    # One step of Newton's: where y is 1, all that is left is lost / y.
    inverse = fma(fma(-y, inverse, one), inverse, inverse)
    # Numba's integers become 64 bits wide, and floats made of them too.
    exponent = to_int32((bits(y) - _ROOT_HALF_BITS) >> _EXPONENT_SHIFT)
    k = to_float(exponent)
    g = from_bits(to_int32(bits(y) - (exponent << _EXPONENT_SHIFT))) - one
    u = g * reciprocal(g + _TWO)
    z = u * u
    series = fma(z, _ATANH[0], _ATANH[1])
    series = fma(series, z, _ATANH[2])
    series = fma(series, z, _ATANH[3])
    half_square, square_low = two_product(_HALF * g, g)
    # log(1 + g) = g - g**2/2 + u (g**2/2 + z series): the large terms are pairs.
    near, near_low = two_sum(g, -half_square)
    high, high_low = two_sum(k * _LN2_HIGH, near)
    low = fma(u, fma(z, series, half_square), fma(lost, inverse, k * _LN2_LOW))
    return widen(high) + widen(low + (high_low + (near_low - square_low)))
