"""``exp`` of what lies below a maximum, and the logarithm of a sum of such exponentials."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compensated import two_sum
from .constants import constants
from .primitives import bits, fma, from_bits, to_float, where

# log(f) = 2 atanh(u) with u = (f - 1) / (f + 1), |u| < 0.1716: the odd series, highest first.
_ATANH = tuple(np.float64(2.0 / (2 * i + 1)) for i in range(10, 0, -1))
_LN2_HIGH = np.float64.fromhex("0x1.62e42fefa3800p-1")  # 42 bits: a multiple of k is exact
_LN2_LOW = np.float64.fromhex("0x1.ef35793c76730p-45")
_ROOT_HALF_BITS = np.float64(0.5**0.5).view(np.int64)
_ONE_BITS = np.float64(1).view(np.int64)
_EXPONENT_SHIFT = np.int64(52)


def exp_scaled(d: Any) -> Any:
    """``2**bias * exp(d)`` for ``d <= 0``, within 1 ulp; exactly 0 below the cutoff and for -inf.

    With ``k = round(d / ln 2)`` and ``r = d - k ln 2``, ``exp(d) = 2**k exp(r)``. The rounding is
    one addition whose low bits *are* ``k + bias``, ready to be added to the exponent of ``exp(r)``.
    """
    c = constants(d)
    shifted = fma(d, c.log2_e, c.rounder)
    k = shifted - c.rounder
    r = fma(k, c.minus_ln2, d)
    r = fma(k, c.minus_ln2_low, r)
    p = fma(r, c.exp_coefficients[0], c.exp_coefficients[1])
    for coefficient in c.exp_coefficients[2:]:
        p = fma(p, r, coefficient)
    p = fma(p, r, c.one)
    p = fma(p, r, c.one)
    # -inf and NaN make nonsense of k and r; NaN rows are known by their maximum.
    return where(d >= c.exp_cutoff, from_bits(bits(p) + (bits(shifted) << c.mantissa_bits)), c.zero)


def exp(d: Any) -> Any:
    """``exp(d)`` for ``d <= 0``, subnormal results included."""
    return exp_scaled(d) * constants(d).scale_down


def log_of_sum(count: Any, rest: Any, rest_low: Any) -> Any:
    """``log(count + rest)`` in float64 for ``count >= 1`` and ``rest >= 0``.

    Accurate to about an ulp also where ``count`` is 1 and `rest` is tiny, when the sum itself
    rounds to 1: ``log(y + lost) = log(y) + lost / y``. With ``y = 2**k (1 + g)``, the quotient needs
    few digits unless g is tiny, and ``1 / (1 + g)`` is about ``(1 - g) (1 + g**2)``.
    """
    y, lost = two_sum(count, rest)
    lost = lost + rest_low
    exponent = (bits(y) - _ROOT_HALF_BITS) >> _EXPONENT_SHIFT
    k = to_float(exponent)
    exponent = exponent << _EXPONENT_SHIFT
    g = from_bits(bits(y) - exponent) - 1.0
    u = g / (g + 2.0)
    z = u * u
    series = fma(z, _ATANH[0], _ATANH[1])
    for coefficient in _ATANH[2:]:
        series = fma(series, z, coefficient)
    square = g * g
    half_square = 0.5 * square
    inverse = 1.0 - g
    inverse = fma(inverse, square, inverse)
    lost = lost * from_bits(_ONE_BITS - exponent) * inverse
    # log(1 + g) = g - g**2/2 + u (g**2/2 + z series): the large terms are exact or nearly so.
    tail = fma(u, half_square + z * series, fma(k, _LN2_LOW, lost))
    return fma(k, _LN2_HIGH, g - (half_square - tail))
