"""How the classes of an example are cut into vectors, and which thread holds which class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .device import VECTOR_BYTES, to_int32

WIDTH = HELD = LANES = SIZE = 0
MASKED: Any = None
ZERO: Any = None
load_logit: Any = None
load_label: Any = None
store_logit: Any = None
store_label: Any = None
_NONE = np.int64(0)
_NO_CLASS = np.int64(-1)


class Span(NamedTuple):
    """How the classes of an example are cut into vectors.

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


def cut(address: int, step: int, classes: int) -> Span:
    """Cut so that the vectors of side-by-side classes begin at multiples of 16 bytes."""
    head = _NONE
    if step == SIZE:
        head = min(((-address) % VECTOR_BYTES) // SIZE, classes)
    vectors = (classes - head) // LANES
    return Span(head, vectors, head + vectors * LANES, classes)


def edge_class(edge: int, span: Span, lane: int) -> int:
    """The class before (0) or after (1) the vectors that is a thread's, or -1."""
    c = lane + (span.tail if edge == 1 else _NONE)
    end = span.classes if edge == 1 else span.head
    return c if c < end else _NO_CLASS


def is_used(s: int, span: Span, first: int) -> bool:
    """Whether the s-th number of a tile that begins with vector `first` is a class."""
    return s // LANES * WIDTH < to_int32(span.vectors - first)


def read_logit_edges(address: int, step: int, span: Span, lane: int, numbers: Any, at: int) -> None:
    """Read the classes outside of vectors: -inf where a thread has none."""
    for edge in range(2):
        c = edge_class(edge, span, lane)
        numbers[at + edge] = load_logit(address + c * step) if c >= 0 else MASKED


def read_label_edges(address: int, step: int, span: Span, lane: int, numbers: Any, at: int) -> None:
    """Read their labels: 0 where a thread has none."""
    for edge in range(2):
        c = edge_class(edge, span, lane)
        numbers[at + edge] = load_label(address + c * step) if c >= 0 else ZERO


def write_logit_edges(
    address: int, step: int, span: Span, lane: int, numbers: Any, at: int
) -> None:
    """Write the gradient of the classes outside of vectors."""
    for edge in range(2):
        c = edge_class(edge, span, lane)
        if c >= 0:
            store_logit(address + c * step, numbers[at + edge])


def write_label_edges(
    address: int, step: int, span: Span, lane: int, numbers: Any, at: int
) -> None:
    """The same for the gradient by labels."""
    for edge in range(2):
        c = edge_class(edge, span, lane)
        if c >= 0:
            store_label(address + c * step, numbers[at + edge])


def owner_of(c: int, span: Span, first: int) -> int:
    """The thread that holds a class, if the first vector it goes through is `first` + thread."""
    if c < span.head:
        return c
    if c >= span.tail:
        return c - span.tail
    return ((c - span.head) // LANES - first) % WIDTH
