"""float16 and bfloat16 by their bits: exact to float32, and back with one correct rounding.

Halves come and go in the low 16 bits of an int32, because not every processor converts them itself.
The high 16 bits of what comes out mean nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .primitives import bits, from_bits, where

_SIGN = np.int32(-0x80000000)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)
_QUIET_BIT = np.int32(0x00400000)

_F16_MAGNITUDE = np.int32(0x7FFF)
_F16_INFINITY = np.int32(0x7C00)
_F16_QUIET_NAN = np.int32(0x7E00)
_F16_SHIFT = np.int32(13)
_F16_ROUND = np.int32(0xFFF)
_F16_REBIAS = np.int32((127 - 15) << 23)
_F16_SCALE = np.float32(2.0**112)
_F16_OVERFLOW = np.float32(65520.0)
_F16_SMALLEST_NORMAL = np.float32(2.0**-14)
_HALF = np.float32(0.5)

_BF16_SHIFT = np.int32(16)
_BF16_ROUND = np.int32(0x7FFF)
_ONE = np.int32(1)


def float16_to_float(h: Any) -> Any:
    """float32 from the bits of a float16."""
    magnitude = (h & _F16_MAGNITUDE) << _F16_SHIFT
    special = (h & _F16_INFINITY) == _F16_INFINITY
    # One exact multiplication moves the exponent and normalises subnormal numbers.
    finite = bits(from_bits(magnitude) * _F16_SCALE)
    return from_bits(where(special, magnitude | _INFINITY, finite) | (h << _BF16_SHIFT) & _SIGN)


def float_to_float16(x: Any) -> Any:
    """The bits of the float16 nearest to a float32, ties to even."""
    i = bits(x)
    magnitude = i & _MAGNITUDE
    size = from_bits(magnitude)
    odd = (magnitude >> _F16_SHIFT) & _ONE
    normal = (magnitude - _F16_REBIAS + _F16_ROUND + odd) >> _F16_SHIFT
    # Below the normal range, adding 0.5 leaves exactly the subnormal's bits in the low end.
    subnormal = bits(size + _HALF) - bits(_HALF)
    h = where(size < _F16_SMALLEST_NORMAL, subnormal, normal)
    h = where(size >= _F16_OVERFLOW, _F16_INFINITY, h)
    h = where(size != size, _F16_QUIET_NAN, h)
    return h | (i & _SIGN) >> _BF16_SHIFT


def bfloat16_to_float(h: Any) -> Any:
    """float32 from the bits of a bfloat16."""
    return from_bits(h << _BF16_SHIFT)


def float_to_bfloat16(x: Any) -> Any:
    """The bits of the bfloat16 nearest to a float32, ties to even."""
    i = bits(x)
    rounded = (i + _BF16_ROUND + ((i >> _BF16_SHIFT) & _ONE)) >> _BF16_SHIFT
    return where(x != x, (i | _QUIET_BIT) >> _BF16_SHIFT, rounded)
