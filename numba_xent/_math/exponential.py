"""``exp`` of what lies below a maximum, and the logarithm of a sum of such exponentials."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .compensated import two_sum
from .constants import constants
from .primitives import bits, fma, from_bits, to_float, where

# log(f) = 2 atanh(u) with u = (f - 1) / (f + 1), |u| < 0.1716: the odd series, highest first.
_ATANH = tuple(np.float64(2.0 / (2 * i + 1)) for i in range(10, 0, -1))
# (log(1 + f) - f) / f**2 for 0.5**0.5 <= 1 + f <= 2**0.5, highest power first: it minimises the
# largest relative error of the logarithm of what is at least 1 (least squares, reweighted until
# flat), 2**-31.
_LOG = tuple(
    np.float64(a)
    for a in (
        0.06418274171299361,
        -0.11582408526181354,
        0.12018570381187009,
        -0.12443301523183967,
        0.14203528958909195,
        -0.16663544765013705,
        0.20002886511280699,
        -0.2500020219259383,
        0.33333300469639743,
        -0.49999997495698073,
    )
)
_LOG_ODD, _LOG_EVEN = _LOG[::2], _LOG[1::2]
_LN2 = np.float64(math.log(2.0))
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


def log_of_float32_sum(count: Any, rest: Any) -> Any:
    """Like `log_of_sum`, within ``2**-31`` of the result: what a sum of float32 is worth.

    With ``y = 2**k (1 + f)`` and ``1 + g = count + rest``, f is ``2**-k g - (1 - 2**-k)``: where k
    is 0 that is g, however small. There is no division, and two short chains of operations.
    """
    g = (count - 1.0) + rest
    exponent = (bits(g + 1.0) - _ROOT_HALF_BITS) >> _EXPONENT_SHIFT
    down = from_bits(_ONE_BITS - (exponent << _EXPONENT_SHIFT))
    f = fma(g, down, down - 1.0)
    square = f * f
    odd = fma(square, _LOG_ODD[0], _LOG_ODD[1])
    for a in _LOG_ODD[2:]:
        odd = fma(odd, square, a)
    even = fma(square, _LOG_EVEN[0], _LOG_EVEN[1])
    for a in _LOG_EVEN[2:]:
        even = fma(even, square, a)
    return fma(to_float(exponent), _LN2, fma(square, fma(f, odd, even), f))
