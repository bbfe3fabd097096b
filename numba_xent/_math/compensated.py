"""Sums that carry their own rounding error: a pair ``(high, low)`` stands for ``high + low``.

A million terms added one after the other would lose seven bits; a pair loses none that matters.
If `high` is infinite or NaN it is the whole truth, and `low` means nothing.
"""

from __future__ import annotations

from typing import Any

from .primitives import fma, where


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """``a + b`` rounded, and what the rounding lost (Knuth, 1969)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Any, b: Any) -> tuple[Any, Any]:
    """``a * b`` rounded, and what the rounding lost."""
    product = a * b
    return product, fma(a, b, -product)


def accumulate(high: Any, low: Any, term: Any) -> tuple[Any, Any]:
    """Add a number to a pair."""
    high, lost = two_sum(high, term)
    return high, low + lost


def add_pairs(high: Any, low: Any, other: Any, other_low: Any) -> tuple[Any, Any]:
    """Add two pairs."""
    high, lost = two_sum(high, other)
    return high, (low + other_low) + lost


def scale_pair(high: Any, low: Any, factor: Any) -> tuple[Any, Any]:
    """Multiply a pair by a number."""
    product, lost = two_product(high, factor)
    return product, lost + low * factor


def low_part(high: Any, low: Any) -> Any:
    """The part of a pair that `high` does not hold: 0 where `high` is not finite."""
    return where(high - high == 0.0, low, 0.0)


def total_of(high: Any, low: Any) -> Any:
    """The number that a pair stands for, rounded once."""
    return high + low_part(high, low)
