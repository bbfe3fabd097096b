"""What instructions compute, on arrays with one element for each thread: the subset of PTX."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .memory import Values

DTYPES = {
    "pred": np.dtype(bool),
    **{f"{k}{n}": np.dtype(f"u{n // 8}") for k in "ub" for n in (8, 16, 32, 64)},
    **{f"s{n}": np.dtype(f"i{n // 8}") for n in (8, 16, 32, 64)},
    **{f"f{n}": np.dtype(f"f{n // 8}") for n in (16, 32, 64)},
}

SHARED_WINDOW = 1 << 26
"""Where shared memory lies in the generic address space: first the own, then that of each block."""


def _split(x: Values) -> tuple[Values, Values]:
    high = x * 134217729.0
    high = high - (high - x)
    return high, x - high


def _fma(a: Values, b: Values, c: Values) -> Values:
    """``a * b + c``: in float32 through float64; in float64 with the product's error added."""
    if a.dtype == np.float32:
        return (a.astype(np.float64) * b + c).astype(np.float32)
    product = a * b
    (ah, al), (bh, bl) = _split(a), _split(b)
    error = ((ah * bh - product) + ah * bl + al * bh) + al * bl
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)
    exact = total + (lost + error)
    return np.where(np.isfinite(exact), exact, total)


def _wide(a: Values, b: Values) -> Values:
    dtype = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
    return a.astype(dtype) * b.astype(dtype)


def _quotient(a: Values, b: Values) -> Values:
    """Of integers, towards 0."""
    if (b == 0).any():
        raise ZeroDivisionError
    if a.dtype.kind == "u":
        return a // b
    return np.where((a < 0) != (b < 0), -(np.abs(a) // np.abs(b)), np.abs(a) // np.abs(b))


def _insert(a: Values, b: Values, position: Values, length: Values) -> Values:
    """The lowest `length` bits of `a` in place of those of `b` from `position` on."""
    mask = ((np.ones_like(b) << length.astype(b.dtype)) - np.ones_like(b)) << position
    return (b & ~mask) | (a << position.astype(a.dtype) & mask)


def _two_bfloat16(high: Values, low: Values) -> Values:
    """The nearest bfloat16 of both, ties to even, in one word."""
    bits = [x.view(np.uint32) for x in (high, low)]
    rounded = [i + 0x7FFF + (i >> 16 & 1) >> 16 for i in bits]
    number = [np.where(np.isnan(x), 0x7FFF, r) for x, r in zip((high, low), rounded, strict=True)]
    return (number[0] << 16 | number[1]).astype(np.uint32)


def _truncated(dtype: np.dtype) -> Callable[[Values], Values]:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return lambda a: np.clip(np.nan_to_num(np.trunc(a)), low, high).astype(dtype)


SEMANTICS: dict[str, Callable[..., Values]] = {
    "add": np.add, "sub": np.subtract, "rem": lambda a, b: a - _quotient(a, b) * b,
    "mul": np.multiply, "mul.lo": np.multiply, "mul.wide": _wide,
    "mad.lo": lambda a, b, c: a * b + c, "fma.rn": _fma, "div": _quotient, "div.rn": np.divide,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
    "shl": lambda a, b: a << np.minimum(b, 64).astype(a.dtype),  # beyond the width 0 is left,
    "shr": lambda a, b: a >> np.minimum(b, 64).astype(a.dtype),  # or the sign, as NumPy has it
    "bfi": _insert,
    "neg": np.negative, "min": np.fmin, "max": np.fmax, "max.NaN": np.maximum,
    "rcp.rn": lambda a: 1 / a, "rcp.approx": lambda a: 1 / a,
    "ex2.approx": lambda a: np.exp2(a.astype(np.float64)).astype(a.dtype),
    "mov": np.array, "selp": lambda a, b, chosen: np.where(chosen, a, b),
    "setp.eq": np.equal, "setp.ne": lambda a, b: (a < b) | (a > b),
    "setp.lt": np.less, "setp.le": np.less_equal, "setp.gt": np.greater,
    "setp.ge": np.greater_equal, "setp.neu": np.not_equal, "setp.leu": lambda a, b: ~(a > b),
    "setp.ltu": lambda a, b: ~(a >= b), "setp.nan": lambda a, b: np.isnan(a) | np.isnan(b),
    "cvt.rn.bf16x2": _two_bfloat16, "cvta.shared": lambda a: a + np.uint64(SHARED_WINDOW),
    **{f"cvt{rounding}.{name}": lambda a, dtype=dtype: a.astype(dtype)
       for rounding in ("", ".rn") for name, dtype in DTYPES.items()},
    **{f"cvt.rzi.{name}": _truncated(DTYPES[name]) for name in ("s64", "u64")},
}  # fmt: skip
"""What instructions compute from their operands, by their name and modifiers without ``.ftz``.

What is not here is refused. Integers wrap; those that do not fit become the nearest that do.
"""

KINDS = {"shl": {1: "u32"}, "shr": {1: "u32"}, "selp": {2: "pred"}, "bfi": {2: "u32", 3: "u32"}}
"""The types of operands that are not that of the instruction."""


def flushed(result: Values) -> Values:
    """``.ftz``: subnormal results are zeros."""
    return np.where(np.abs(result) < np.finfo(result.dtype).tiny, result * 0, result)


def approximated(result: Values, wrong: Values) -> Values:
    """The result off by so many units in the last place; where powers are exact, they stay."""
    off = (result.view(np.int32) + wrong.astype(np.int32)).view(np.float32)
    _, exponent = np.frexp(result)
    exact = ~np.isfinite(result) | (result == np.ldexp(np.float32(0.5), exponent))
    return np.where(exact | (result == 0), result, off)
