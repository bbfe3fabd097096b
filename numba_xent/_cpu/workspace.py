"""A task's scratch memory, and how it is divided."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compile import inlined
from .intrinsics import lanes_of, pointer, size_of
from .lanes import FIELD_SIZE
from .stream import Stage

_F64, _I64 = np.float64(0), np.int64(0)

STAGE_SIZE = 16 << 10
"""Bytes that wait on the stage at least, before they are written: a third of an L1 cache."""


class Workspace(NamedTuple):
    """A task's scratch memory.

    Attributes
    ----------
    logits, labels
        A chunk of each example of a unit, and its tail.
    output
        A chunk of one example, and its tail.
    exponentials
        Those of the whole unit, or of a chunk of one example, and the tails.
    sums
        What is known of each example, before it is brought together.
    maxima
        The maximum in each lane of each example, of the chunk that comes next.
    known
        Where an int64 lies: the number of that chunk, counted over all units, or -1.
    examples
        Four registers for numbers of the unit's examples, see the names below.
    indices
        The sparse labels of the unit's examples.
    tops
        What the exponentials of each chunk stand against, for each example.
    example
        Bytes from one example's chunk in the buffers to the next.
    stage
        Where outputs wait that are written past the caches.
    """

    logits: Any
    labels: Any
    output: Any
    exponentials: Any
    sums: Any
    maxima: Any
    known: Any
    examples: Any
    indices: Any
    tops: Any
    example: int
    stage: Stage


@inlined
def _copies(p: Any) -> int:
    """How many chunks of a unit there may be in a buffer: one of each example, or one."""
    return p.group if p.rows != 0 else 1


@inlined
def _needs(p: Any, zero: Any, gradient: Any) -> tuple[int, int, int]:
    """Bytes of an example's chunk, of the kept exponentials, and of the stage."""
    register = size_of(zero)
    example = (min(p.chunk, p.vectors) + 1) * register
    if gradient is None:
        return example, 0, 0
    kept = _copies(p) * example
    if p.chunks > 1 and p.keep != 0:
        kept = (p.vectors + 1) * register
    return example, kept, max(STAGE_SIZE, _copies(p) * example) + 2 * register


@inlined
def workspace_size(p: Any, zero: Any, gradient: Any) -> int:
    """Bytes of scratch memory that a task needs, wherever it begins."""
    example, kept, stage = _needs(p, zero, gradient)
    lanes = lanes_of(zero)
    numbers = 5 * FIELD_SIZE + (lanes + 4) * size_of(zero)
    numbers += (lanes + 4 + p.chunks * lanes) * size_of(_F64)
    return (2 * _copies(p) + 1) * example + kept + stage + numbers + 4 * size_of(zero)


@inlined
def lay_out(p: Any, address: int, zero: Any, gradient: Any) -> Workspace:
    """Divide scratch memory, from its first aligned address on."""
    register = size_of(zero)
    example, kept, stage = _needs(p, zero, gradient)
    stages = pointer((address + register - 1) // register * register)
    logits = stages + stage
    labels = logits + _copies(p) * example
    output = labels + _copies(p) * example
    exponentials = output + example
    sums = exponentials + kept
    maxima = sums + 5 * FIELD_SIZE
    examples = maxima + lanes_of(zero) * register
    tops = examples + 4 * register
    indices = tops + p.chunks * lanes_of(zero) * size_of(_F64)
    known = indices + lanes_of(zero) * size_of(_I64)
    numbers = known + size_of(_I64)
    return Workspace(
        logits,
        labels,
        output,
        exponentials,
        sums,
        maxima,
        known,
        examples,
        indices,
        tops,
        example,
        Stage(numbers, stages, stage - register),
    )
