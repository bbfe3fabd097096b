"""How the classes of a row are cut into vectors, and which thread holds which class.

Vectors of 16 bytes begin at multiples of 16. The classes before and after them, fewer than a vector
at either end, are one number more for some threads: the first ``LANES`` have those before, the next
those after. Where a vector is a single number there are no such classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .device import VECTOR_BYTES, to_int32

WIDTH = VECTORS = LANES = SIZE = HELD = 0
NUMBER: Any = None
_NONE = np.int64(0)
_NO_CLASS = np.int64(-1)


class Span(NamedTuple):
    """How the classes of a row are cut into vectors.

    Attributes
    ----------
    head
        How many classes lie before the first vector.
    vectors
        How many vectors there are.
    tail
        The first class after the last vector.
    classes
        How many classes there are.
    """

    head: int
    vectors: int
    tail: int
    classes: int


def cut(address: int, classes: int) -> Span:
    """Cut a row; all operands that move as vectors are cut alike."""
    head = _NONE
    if LANES > 1:
        head = min(((-address) % VECTOR_BYTES) // SIZE, classes)
    vectors = (classes - head) // LANES
    return Span(head, vectors, head + vectors * LANES, classes)


def stride_of(step: int) -> int:
    """How far vectors are apart, whose classes are `step` bytes apart."""
    return np.int64(VECTOR_BYTES) if LANES > 1 else step


def edge_class(span: Span, lane: int) -> int:
    """The class outside of vectors that is a thread's, or -1."""
    if LANES == 1:
        return _NO_CLASS
    c = lane if lane < LANES else span.tail + lane - LANES
    end = span.head if lane < LANES else span.classes
    return c if c < end else _NO_CLASS


def is_used(s: int, span: Span, first: int) -> bool:
    """Whether the s-th number of a tile that begins with vector `first` is a class."""
    if s >= HELD:
        return edge_class(span, first) >= 0
    return s // LANES * WIDTH < to_int32(span.vectors - first)


def owner_of(c: int, span: Span) -> int:
    """The thread that holds a class."""
    if c < span.head:
        return c
    if c >= span.tail:
        return c - span.tail + LANES
    return (c - span.head) // LANES % WIDTH
