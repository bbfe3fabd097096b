"""How problems with arrays of certain shapes, strides and dtypes are launched, worked out once.

What a kernel is told follows from those, but for addresses and a few numbers: the slots, which all
launches of a recipe share and which are written before they are used.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, NamedTuple

import numpy as np

from .._arrays import dtype_name
from .._weighting import Reduction
from . import driver, totals
from .driver import Prepared, Slot
from .plan import NO_TENSOR, OPERANDS, Meta, UnevenStridesError, make_plan
from .task import Tensor, flat

Known = tuple[np.dtype[Any], tuple[int, ...], tuple[int, ...]]
"""The dtype, shape and strides of an array."""

SLOTS = struct.Struct("=12q4d")
"""The addresses of the operands, in the order of ``OPERANDS``, of the losses as a kernel leaves
them, of the states, the scale, the value and the partial sums, one to spare; `keep`, `uniform`,
`scale` and `weight`."""

_SLOTS: list[Any] = [Slot(i) for i in range(16)]
_LOSSES, _STATES, _SCALE_AT, _VALUE, _PARTIALS, _, _KEEP, _UNIFORM, _SCALE, _WEIGHT = _SLOTS[6:]
_WEIGHTS, _UPSTREAM = _SLOTS[4:6]
_ALIGNMENT = 256

MODES = {
    Reduction.MEAN: totals.BY_WEIGHTS,
    Reduction.SUM_BY_NONZERO_WEIGHTS: totals.BY_COUNT,
}
"""The reductions whose divisor weights on a GPU decide."""


class Key(NamedTuple):
    """What a recipe follows from.

    Attributes
    ----------
    device
        The number of the device.
    axis, sparse, compute
        As a :class:`.._problem.Problem` has them.
    reduction
        A key of ``Reduction``; None if losses are not reduced.
    divisor
        What the sum is divided by, if the host knows it.
    raw
        Whether losses are wanted unweighted and in the compute dtype.
    upstream
        Whether the upstream gradient of the reduced loss is on the GPU.
    operands
        In the order of ``OPERANDS``; None where there is none.
    """

    device: int
    axis: int
    sparse: bool
    compute: str
    reduction: str | None
    divisor: float | None
    raw: bool
    upstream: bool
    operands: tuple[Known | None, ...]


class Recipe:
    """How problems of a :class:`Key` are launched.

    Attributes
    ----------
    copies
        The operands that must be contiguous first; if there are any, the recipe says nothing else.
    memory
        The slots.
    launches
        In their order.
    scratch
        Where states, losses, partial sums and the scale begin in the scratch memory, and its size.
    early
        Whether gradients are scaled by what only the GPU knows.
    blocks
        How many partial sums there are.
    """

    def __init__(self, key: Key) -> None:
        self.copies: tuple[str, ...] = ()
        metas = [k and Meta(dtype_name(k[0]), k[1], k[2]) for k in key.operands]
        try:
            plan = make_plan(key.axis, key.sparse, tuple(metas), driver.processors(key.device))
        except UnevenStridesError as error:
            self.copies = error.names
            return
        labels = key.operands[1]
        assert labels is not None
        examples = plan.outer * plan.inner
        self.blocks = -(-examples // totals.EXAMPLES)
        gradient = metas[2] is not None or metas[3] is not None
        self.early = (
            key.reduction is not None and gradient and (key.divisor is None or key.upstream)
        )
        wide = 8 if key.compute == "float64" else 4
        self.scratch = _pieces(
            plan.states_bytes,
            examples * wide * key.raw,
            self.blocks * 24 * (key.reduction is not None),
            8 * self.early,
        )
        self.memory = bytearray(SLOTS.size)
        slots = np.frombuffer(self.memory, np.int64).ctypes.data
        task = plan.task(
            [0 if k is None else slot for k, slot in zip(key.operands, _SLOTS, strict=False)],
            {
                "losses": _LOSSES,
                "raw": int(key.raw),
                "wide": int(key.sparse and labels[0].itemsize == 8),
                "states": _STATES,
                "scale_at": _SCALE_AT if self.early else 0,
                "keep": _KEEP,
                "uniform": _UNIFORM,
                "scale": _SCALE,
                "weight": _WEIGHT,
            },
        )
        numbers = flat(task)
        launches = [
            Prepared(
                driver.kernel(launch.choice, key.device), launch.grid, launch.choice.threads,
                numbers, slots,
            )
            for launch in plan.launches
            if plan.classes and examples
        ]  # fmt: skip
        if key.reduction is not None:
            dtype = dtype_name(key.operands[0][0])  # type: ignore[index]
            weights = plan.tensors[OPERANDS.index("weights")]
            total = totals.Sum(
                _LOSSES, NO_TENSOR if weights is None else Tensor(_WEIGHTS, *weights[1:]),
                _UPSTREAM if key.upstream else 0, plan.outer, plan.inner, _PARTIALS, self.blocks,
                _VALUE, 0,
                totals.BY_SUM if key.divisor is not None else MODES[key.reduction],
                1.0 if key.divisor is None else key.divisor, _WEIGHT,
            )  # fmt: skip
            launches += sums(total, dtype, key.device, slots)
            if self.early:
                # What gradients are divided by is known before the losses are.
                early = total._replace(losses=0, value=0, scale=_SCALE_AT)
                launches = sums(early, dtype, key.device, slots) + launches
        self.launches = tuple(launches)


def sums(task: totals.Sum, dtype: str, number: int, slots: int = 0) -> list[Prepared]:
    """The two kernels that form a sum, for logits of a dtype."""
    numbers = flat(task)
    return [
        Prepared(
            driver.sum_kernel(name, dtype, number), (blocks, 1), totals.THREADS, numbers, slots
        )
        for name, blocks in (("partial_sums", task.blocks), ("total_sum", 1))
        if blocks
    ]


def _pieces(*sizes: int) -> tuple[int, ...]:
    places = [0]
    for size in sizes:
        places.append(places[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    return tuple(places)


@functools.lru_cache(4096)
def recipe(key: Key) -> Recipe:
    """The recipe for a key."""
    return Recipe(key)
