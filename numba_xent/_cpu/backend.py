"""A problem on NumPy arrays in, losses and gradients out."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from .._arrays import Array, address, dtype_name, in_dtype
from . import memory
from .launch import launcher
from .recipe import OPERANDS, OUTPUTS, WITH_CLASSES, Meta, recipe_for
from .record import DTYPE
from .threads import available_threads

if TYPE_CHECKING:
    from .._problem import Problem

_NUMBER = struct.Struct("=q")
_TASKS_AND_NUMBERS = struct.Struct("=q3d")
_ADDRESS_OFFSETS = [DTYPE.fields[name][1] for name in OPERANDS]  # type: ignore[index]
_LOSSES_OFFSET = DTYPE.fields["losses"][1]  # type: ignore[index]
_STREAM_OFFSET = DTYPE.fields["d_logits"][1] + DTYPE["d_logits"].fields["stream"][1]  # type: ignore[index]
_TASKS_OFFSET = DTYPE.fields["tasks"][1]  # type: ignore[index]


def _metas(operands: tuple[Array | None, ...]) -> tuple[Meta | None, ...]:
    return tuple([a if a is None else (a.dtype, a.shape, a.strides) for a in operands])


def _contiguous(name: str, array: Array, axis: int, dense: bool, batch: tuple[int, ...]) -> Array:
    """An array that fits every recipe: the same elements, contiguous with the class axis last.

    It is returned as a view with the axes of the original; outputs are left uninitialised.
    """
    if name in WITH_CLASSES and (dense or name != "labels"):
        moved = np.moveaxis(array, axis, -1)
        shape = (*batch, moved.shape[-1])
    else:
        moved, shape = array, batch
    if name in OUTPUTS:
        fresh = np.empty(shape, array.dtype)
    else:
        fresh = np.ascontiguousarray(np.broadcast_to(moved, shape))
    return fresh if moved is array else np.moveaxis(fresh, -1, axis)


def solve(
    problem: Problem,
    loss: Array,
    raw: bool,
    upstream: Array | None,
    scale: float,
    d_logits: Array | None,
    d_labels: Array | None,
) -> float:
    """Compute a problem that has at least one example and class.

    Parameters
    ----------
    problem
        What to compute; its arrays are in native byte order and aligned.
    loss, raw
        Receives one loss per example: weighted and in any float dtype, or, if `raw`, unweighted
        and in the compute dtype.
    upstream, scale
        Multiply the gradients: an array of the batch shape in the compute dtype (None for ones),
        and a number.
    d_logits, d_labels
        Receive the gradients that are wanted; `d_logits` may be the logits themselves.

    Returns
    -------
    total
        The weighted sum of the losses if `raw`, else 0.

    Raises
    ------
    IndexError
        If a sparse label is not a class. Nothing has been written.
    """
    axis, dense = problem.axis, not problem.sparse
    labels = problem.labels
    if dtype_name(labels.dtype) not in memory.READABLE:
        labels = in_dtype(labels, problem.compute)
    given = (problem.logits, labels, loss, problem.weights, upstream, d_logits, d_labels)
    operands: tuple[Array | None, ...] = given
    recipe = recipe_for(axis, dense, raw, _metas(operands))
    copied: dict[str, Array] = {}
    if recipe.copies:
        copied = {
            name: _contiguous(name, array, axis, dense, problem.batch_shape)
            for name, array in zip(OPERANDS, given, strict=True)
            if array is not None and name in recipe.copies
        }
        operands = tuple(map(copied.get, OPERANDS, given))
        recipe = recipe_for(axis, dense, raw, _metas(operands))

    target = copied.get("d_logits", d_logits)
    # In place, the lines of the gradient are in the caches already.
    in_place = target is not None and address(target) == address(problem.logits)
    if target is not None and recipe.lines and not in_place:
        missing = address(target) % memory.LINE // target.itemsize
        if missing:
            recipe = recipe_for(axis, dense, raw, _metas(operands), missing)
    record = bytearray(recipe.template)
    for offset, array in zip(_ADDRESS_OFFSETS, operands, strict=True):
        if array is not None:
            _NUMBER.pack_into(record, offset, address(array))
    if in_place:
        _NUMBER.pack_into(record, _STREAM_OFFSET, 0)
    if raw:
        _NUMBER.pack_into(record, _LOSSES_OFFSET, address(copied.get("loss", loss)))
    threads = available_threads() if recipe.large else 1
    _TASKS_AND_NUMBERS.pack_into(
        record,
        _TASKS_OFFSET,
        threads,
        1.0 - problem.smoothing,
        problem.smoothing / problem.classes,
        scale,
    )
    bad, total = launcher(threads > 1)(np.frombuffer(record, DTYPE), *recipe.kernels)
    if bad:
        raise IndexError
    if copied:
        for name, array in zip(OPERANDS, given, strict=True):
            if array is not None and name in OUTPUTS and name in copied:
                array[...] = copied[name]
    return total
