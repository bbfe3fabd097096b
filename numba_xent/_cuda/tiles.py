"""The classes of an example that one thread holds: read from memory and written to it.

A tile is a local array of ``VECTORS`` vectors of ``LANES`` numbers. Where neighbouring classes lie
side by side and a vector at a multiple of 16 bytes, it moves as one, else number by number. This is
a template, specialised for the memory of logits and for that of labels.
"""

from __future__ import annotations

from typing import Any

from numba import cuda
from numba.cuda import types

from .device import VECTOR_BYTES, to_int32

VECTORS = WORDS = LANES = SIZE = WIDTH = 0
ALIKE = MASKED = False
VOID: Any = None
load: Any = None
store: Any = None
load_words: Any = None
no_words: Any = None
unpack: Any = None
store_vector: Any = None


def _is_whole(address: int, step: int) -> bool:
    """Whether vectors that begin at an address can be moved as one."""
    return ALIKE and step == SIZE and address % VECTOR_BYTES == 0


def read(address: int, step: int, first: int, vectors: int, numbers: Any) -> None:
    """Read the vectors `first`, `first` + WIDTH, ... of those that begin at an address."""
    left = to_int32(vectors - first)
    if _is_whole(address, step):
        words = cuda.local.array(WORDS, types.int32)
        at = address + first * VECTOR_BYTES
        for k in range(VECTORS):
            if k * WIDTH < left:
                load_words(at + k * WIDTH * VECTOR_BYTES, words, k)
            else:
                no_words(words, k, MASKED)
        for k in range(VECTORS):
            unpack(words, k, numbers)
    else:
        for k in range(VECTORS):
            at = address + (first + k * WIDTH) * LANES * step
            for i in range(LANES):
                numbers[k * LANES + i] = VOID
                if k * WIDTH < left:
                    numbers[k * LANES + i] = load(at + i * step)


def write(address: int, step: int, first: int, vectors: int, numbers: Any) -> None:
    """Write them."""
    left = to_int32(vectors - first)
    if _is_whole(address, step):
        at = address + first * VECTOR_BYTES
        for k in range(VECTORS):
            if k * WIDTH < left:
                store_vector(at + k * WIDTH * VECTOR_BYTES, numbers, k)
    else:
        for k in range(VECTORS):
            at = address + (first + k * WIDTH) * LANES * step
            if k * WIDTH < left:
                for i in range(LANES):
                    store(at + i * step, numbers[k * LANES + i])
