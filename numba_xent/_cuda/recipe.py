"""How problems with arrays of certain shapes, strides and dtypes are launched, worked out once.

What a kernel is told follows from those, but for addresses and a few numbers: the slots, which all
launches of a recipe share and which are written before they are used.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import numpy as np

from .._arrays import dtype_name
from .._device import Layout
from .._weighting import Reduction
from . import driver, totals
from .arrays import aligned
from .driver import Prepared, Slot
from .plan import NO_TENSOR, OPERANDS, Meta, UnevenStridesError, make_plan
from .task import Tensor, flat

SLOTS = struct.Struct("=11q4d")
"""The addresses of the operands, in the order of ``OPERANDS``, of the losses as a kernel leaves
them, of the states, the scale, the value and the partial sums; `keep`, `uniform`, `scale` and
`weight`."""

_SLOTS: list[Any] = [Slot(i) for i in range(15)]
_LOSSES, _STATES, _SCALE_AT, _VALUE, _PARTIALS, _KEEP, _UNIFORM, _SCALE, _WEIGHT = _SLOTS[6:]
_WEIGHTS, _UPSTREAM = _SLOTS[4:6]

MODES = {
    Reduction.MEAN: totals.BY_WEIGHTS,
    Reduction.SUM_BY_NONZERO_WEIGHTS: totals.BY_COUNT,
}
"""The reductions whose divisor weights on a GPU decide."""


class Recipe:
    """How problems are launched whose arrays have certain shapes, strides and dtypes.

    Parameters
    ----------
    number
        The device.
    axis, sparse
        As a :class:`.._problem.Problem` has them.
    smooth
        Whether labels are smoothed.
    reduction
        A key of ``Reduction``; None if losses are not reduced.
    divisor
        What the sum is divided by, if the host knows it.
    raw
        Whether losses are wanted unweighted and in the compute dtype.
    above
        Whether the upstream gradient of the reduced loss is on the GPU.
    known
        For each of ``OPERANDS`` its layout, and its address modulo 16 if that matters; None where
        there is none.

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
    divisor
        What gradients are divided by, if the host knows it.
    blocks
        How many partial sums there are.
    empty
        Whether there are no logits.
    """

    def __init__(
        self,
        number: int,
        axis: int,
        sparse: bool,
        smooth: bool,
        reduction: str | None,
        divisor: float | None,
        raw: bool,
        above: bool,
        *known: Any,
    ) -> None:
        self.copies: tuple[str, ...] = ()
        layouts: tuple[Layout | None, ...] = known[::2]
        metas = [
            a and Meta(dtype_name(a.dtype), a.shape, a.strides, phase)
            for a, phase in zip(layouts, known[1::2], strict=True)
        ]
        try:
            plan = make_plan(
                axis, sparse, tuple(metas), driver.processors(number),
                driver.has_clusters(number), smooth,
            )  # fmt: skip
        except UnevenStridesError as error:
            self.copies = error.names
            return
        logits, labels = layouts[:2]
        assert logits is not None
        assert labels is not None
        dtype = dtype_name(logits.dtype)
        examples = plan.outer * plan.inner
        self.blocks = -(-examples // totals.EXAMPLES)
        gradient = metas[2] is not None or metas[3] is not None
        early = reduction is not None and gradient and (divisor is None or above)
        self.divisor = None if early else divisor
        self.empty = not (plan.classes and examples)
        wide = 8 if dtype == "float64" else 4
        self.scratch = _pieces(
            plan.states_bytes,
            examples * wide * raw,
            self.blocks * 24 * (reduction is not None),
            8 * early,
        )
        self.memory = bytearray(SLOTS.size)
        slots = np.frombuffer(self.memory, np.int64).ctypes.data
        task = plan.task(
            [0 if a is None else slot for a, slot in zip(layouts, _SLOTS, strict=False)],
            {
                "losses": _LOSSES,
                "raw": int(raw),
                "wide": int(sparse and labels.dtype.itemsize == 8),
                "states": _STATES,
                "scale_at": _SCALE_AT if early else 0,
                "keep": _KEEP,
                "uniform": _UNIFORM,
                "scale": _SCALE,
                "weight": _WEIGHT,
            },
        )
        numbers = flat(task)
        launches = [
            Prepared(
                driver.kernel(launch.choice, number), launch.grid, launch.choice.threads,
                numbers, slots, launch.cluster,
            )
            for launch in plan.launches
            if not self.empty
        ]  # fmt: skip
        if reduction is not None:
            weights = plan.tensors[OPERANDS.index("weights")]
            total = totals.Sum(
                _LOSSES, NO_TENSOR if weights is None else Tensor(_WEIGHTS, *weights[1:]),
                _UPSTREAM if above else 0, plan.outer, plan.inner, _PARTIALS, self.blocks,
                _VALUE, 0,
                totals.BY_SUM if divisor is not None else MODES[reduction],
                1.0 if divisor is None else divisor, _WEIGHT,
            )  # fmt: skip
            launches += sums(total, dtype, number, slots)
            if early:
                # What gradients are divided by is known before the losses are.
                divisors = total._replace(losses=0, value=0, scale=_SCALE_AT)
                launches = sums(divisors, dtype, number, slots) + launches
        self.launches = tuple(launches)


def sums(task: totals.Sum, dtype: str, number: int, slots: int = 0) -> list[Prepared]:
    """The kernels that form a sum, for logits of a dtype."""
    launches = []
    if task.blocks:
        partial = driver.sum_kernel("partial_sums", dtype, number)
        launches = [Prepared(partial, (task.blocks, 1), totals.THREADS, flat(task), slots)]
    if task.blocks != 1:
        launches.append(total_of_partials(task, dtype, number, slots))
    return launches


def total_of_partials(task: totals.Sum, dtype: str, number: int, slots: int = 0) -> Prepared:
    """The kernel that adds what the blocks of the first have left."""
    total = driver.sum_kernel("total_sum", dtype, number)
    return Prepared(total, (1, 1), totals.THREADS, flat(task), slots)


def _pieces(*sizes: int) -> tuple[int, ...]:
    places = [0]
    for size in sizes:
        places.append(places[-1] + aligned(size))
    return tuple(places)


recipe = functools.lru_cache(4096)(Recipe)
"""The recipe for certain problems, once made."""
