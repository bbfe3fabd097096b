"""The vectors that one thread holds: read from memory and written to it.

A vector is ``LANES`` numbers side by side: 16 aligned bytes, or a single number where operands lie
in any other way. A tile is a local array of ``VECTORS`` of them; of those that begin at an address,
`stride` bytes apart, a thread has every ``WIDTH``-th. This is a template, specialised for the memory
of logits and for that of labels.
"""

from __future__ import annotations

from typing import Any

from numba import cuda
from numba.cuda import types

from .device import to_int32

VECTORS = WORDS = LANES = WIDTH = 0
MASKED = False
VOID: Any = None
load: Any = None
store: Any = None
load_words: Any = None
no_words: Any = None
unpack: Any = None
store_vector: Any = None


def read(address: int, stride: int, first: int, vectors: int, numbers: Any) -> None:
    """Read the vectors `first`, `first` + WIDTH, ...: ``VOID`` where there are no more."""
    left = to_int32(vectors - first)
    at = address + first * stride
    if LANES > 1:
        words = cuda.local.array(WORDS, types.int32)
        for k in range(VECTORS):
            if k * WIDTH < left:
                load_words(at + k * WIDTH * stride, words, k)
            else:
                no_words(words, k, MASKED)
        for k in range(VECTORS):
            unpack(words, k, numbers)
    else:
        for k in range(VECTORS):
            numbers[k] = VOID
            if k * WIDTH < left:
                numbers[k] = load(at + k * WIDTH * stride)


def write(address: int, stride: int, first: int, vectors: int, numbers: Any) -> None:
    """Write them."""
    left = to_int32(vectors - first)
    at = address + first * stride
    for k in range(VECTORS):
        if k * WIDTH < left:
            if LANES > 1:
                store_vector(at + k * WIDTH * stride, numbers, k)
            else:
                store(at + k * WIDTH * stride, numbers[k])
