"""What single instructions compute, on arrays with one element for each thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

DTYPES = {
    "pred": np.dtype(bool),
    **{f"{k}{n}": np.dtype(f"u{n // 8}") for k in "ub" for n in (8, 16, 32, 64)},
    **{f"s{n}": np.dtype(f"i{n // 8}") for n in (8, 16, 32, 64)},
    "f16": np.dtype(np.float16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
}

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "ne": lambda a, b: (a < b) | (a > b) if a.dtype.kind == "f" else a != b,
    "neu": lambda a, b: ~(a == b), "equ": lambda a, b: ~((a < b) | (a > b)),
    "ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b), "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: (a == a) & (b == b), "nan": lambda a, b: (a != a) | (b != b),
}  # fmt: skip


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    high = x * 134217729.0
    high = high - (high - x)
    return high, x - high


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
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


def _minmax(pick: Callable[..., Any], nan: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b, modifiers: (nan if "NaN" in modifiers else pick)(a, b)


def _shift(operate: Callable[..., Any]) -> Callable[..., Any]:
    def shift(a: np.ndarray, b: np.ndarray, modifiers: Any) -> Any:
        bits = a.dtype.itemsize * 8
        amount = np.minimum(b.astype(np.uint32), bits - 1).astype(a.dtype)
        moved = operate(a, amount)
        nothing = np.where(a < 0, -1, 0).astype(a.dtype)
        return np.where(b.astype(np.uint32) >= bits, nothing, moved)

    return shift


def _divide(a: np.ndarray, b: np.ndarray, modifiers: Any) -> Any:
    if a.dtype.kind == "f":
        return a / b
    if (b == 0).any():
        raise ZeroDivisionError
    if a.dtype.kind == "u":
        return a // b
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient)


def _remainder(a: np.ndarray, b: np.ndarray, modifiers: Any) -> Any:
    return a - _divide(a, b, modifiers) * b


BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda a, b, m: a + b,
    "sub": lambda a, b, m: a - b,
    "mul": lambda a, b, m: a * b,
    "and": lambda a, b, m: a & b,
    "or": lambda a, b, m: a | b,
    "xor": lambda a, b, m: a ^ b,
    "min": _minmax(np.fmin, np.minimum),
    "max": _minmax(np.fmax, np.maximum),
    "shl": _shift(np.left_shift),
    "shr": _shift(np.right_shift),
    "div": _divide,
    "rem": _remainder,
}

UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "neg": lambda a, m: -a if a.dtype.kind != "u" else (0 - a),
    "abs": lambda a, m: np.abs(a),
    "not": lambda a, m: ~a,
    "rcp": lambda a, m: a.dtype.type(1) / a,
    "ex2": lambda a, m: np.exp2(a.astype(np.float64)).astype(a.dtype),
    "lg2": lambda a, m: np.log2(a.astype(np.float64)).astype(a.dtype),
    "sqrt": lambda a, m: np.sqrt(a),
}
APPROXIMATE = frozenset(("rcp", "ex2", "lg2"))


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even."""
    i = x.view(np.uint32)
    rounded = (i + 0x7FFF + ((i >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def convert(x: np.ndarray, to: np.dtype, modifiers: tuple[str, ...]) -> np.ndarray:
    """``cvt``: integers wrap; floats become integers as the modifier says."""
    if to.kind in "iu" and x.dtype.kind == "f":
        rounding = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
        mode = next(rounding[m] for m in modifiers if m in rounding)
        limits = np.iinfo(to)
        return np.clip(np.nan_to_num(mode(x)), limits.min, limits.max).astype(to)
    return x.astype(to)
