"""Weighted sums of losses, and what they are divided by: the same bits every time.

The first kernel adds a fixed number of examples in each block as a fixed tree; the second, one
block, adds what the blocks have left, divides, and writes the value or the scale of gradients. If
the first has one block only, that does it all. Sums are float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from .device import FULL_WARP
from .examples import place_of, start_of
from .task import Tensor

THREADS = 256
EXAMPLES = 4096
"""How many examples a block adds."""

BY_SUM, BY_WEIGHTS, BY_COUNT = 0, 1, 2
"""What a sum is divided by: a number, the sum of the weights, how many of them are not 0."""

_WARP = 32
_WARPS = THREADS // _WARP
_SHARED = 3 * _WARPS
_BYTES = 8
_NONE = np.int64(0)
load_number: Any = None
load_wide: Any = None
store_wide: Any = None
store_value: Any = None
NUMBER_SIZE = 0


class Sum(NamedTuple):
    """What the kernels of sums are told.

    Attributes
    ----------
    losses
        The address of unweighted losses in the compute dtype, contiguous; 0 to add weights alone.
    weights
        Operand without classes, in the compute dtype; without address for ones.
    upstream
        The address of one number in the compute dtype, or 0 for 1.
    outer, inner
        The lengths of the batch axes.
    partials, blocks
        Where each block leaves three float64, and how many blocks there are.
    value
        Where the value is written in the dtype of the logits, or 0.
    scale
        Where ``upstream / divisor`` is written as float64, or 0.
    mode
        One of ``BY_SUM``, ``BY_WEIGHTS`` and ``BY_COUNT``.
    divisor
        What to divide by in the first case.
    weight
        What all losses are weighted with, besides `weights`.
    """

    losses: int
    weights: Tensor
    upstream: int
    outer: int
    inner: int
    partials: int
    blocks: int
    value: int
    scale: int
    mode: int
    divisor: float
    weight: float


def _block_sum(x: float, shared: Any, field: int) -> float:
    """The sum over the threads of a block, to be read by the first thread after a barrier."""
    for offset in (16, 8, 4, 2, 1):
        x = x + cuda.shfl_xor_sync(FULL_WARP, x, offset)
    thread = np.int64(cuda.threadIdx.x)
    if thread % _WARP == 0:
        shared[field * _WARPS + thread // _WARP] = x
    return x


def _whole(shared: Any, field: int) -> float:
    total = 0.0
    for i in range(_WARPS):
        total += shared[field * _WARPS + i]
    return total


def _write(task: Any, total: float, weight_sum: float, present: float) -> None:
    """The value, and the scale of gradients, as far as they are wanted."""
    divisor = task.divisor
    if task.mode == BY_WEIGHTS:
        divisor = weight_sum
    if task.mode == BY_COUNT:
        divisor = present
    if task.value != 0:
        store_value(task.value, total / divisor if divisor != 0.0 else 0.0)
    if task.scale != 0:
        up = load_number(task.upstream) if task.upstream != 0 else 1.0
        store_wide(task.scale, up / divisor if divisor != 0.0 else 0.0)


def partial_sums(task: Any) -> None:
    """The sums of some examples: weight times loss, weights, and weights that are not 0.

    The only block also writes what :func:`total_sum` would.
    """
    shared = cuda.shared.array(_SHARED, types.float64)
    total, weight_sum, present = 0.0, 0.0, 0.0
    thread, block = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
    end = min((block + 1) * EXAMPLES, task.outer * task.inner)
    for example in range(block * EXAMPLES + thread, end, THREADS):
        weight = task.weight
        if task.weights.address != 0:
            outer, inner = place_of(task, example)
            weight *= load_number(start_of(task.weights, outer, inner))
        if task.losses != 0:
            total += weight * load_number(task.losses + example * NUMBER_SIZE)
        weight_sum += weight
        if weight != 0.0:
            present += 1.0
    _block_sum(total, shared, 0)
    _block_sum(weight_sum, shared, 1)
    _block_sum(present, shared, 2)
    cuda.syncthreads()
    if thread == 0:
        at = task.partials + block * 3 * _BYTES
        total, weight_sum, present = _whole(shared, 0), _whole(shared, 1), _whole(shared, 2)
        store_wide(at, total)
        store_wide(at + _BYTES, weight_sum)
        store_wide(at + 2 * _BYTES, present)
        if task.blocks == 1:
            _write(task, total, weight_sum, present)


def total_sum(task: Any) -> None:
    """The value, or the scale of gradients, from the sums of all blocks."""
    shared = cuda.shared.array(_SHARED, types.float64)
    thread = np.int64(cuda.threadIdx.x)
    total, weight_sum, present = 0.0, 0.0, 0.0
    for block in range(thread, task.blocks, THREADS):
        at = task.partials + block * 3 * _BYTES
        total += load_wide(at)
        weight_sum += load_wide(at + _BYTES)
        present += load_wide(at + 2 * _BYTES)
    _block_sum(total, shared, 0)
    _block_sum(weight_sum, shared, 1)
    _block_sum(present, shared, 2)
    cuda.syncthreads()
    if thread == 0:
        _write(task, _whole(shared, 0), _whole(shared, 1), _whole(shared, 2))
