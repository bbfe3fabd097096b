"""Which kernels solve a problem, and what they are told: from shapes, strides and dtypes alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._layout import broadcast_strides, two_axes
from .device import SIZES
from .kernels import Choice
from .split import FIELDS
from .task import Task, Tensor

MAX_PARTS = 32
"""Into so many parts a row is split at most: a warp merges them at once."""

_WIDTHS = (8, 32, 128, 512)
_MIN_THREADS = 128
_COLUMN_CLASSES = 8  # of an example, that a thread reads at once
_LARGEST = {"float64": 8}  # logits that a thread of rows holds at most, else 32
_MAX_BLOCKS = 2**31 - 1

NO_TENSOR = Tensor(0, 0, 0, 0)


class Meta(NamedTuple):
    """What is known of an operand besides its address."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class UnevenStridesError(ValueError):
    """Operands whose batch axes cannot be seen as the two evenly strided axes of the others."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(f"{' and '.join(names)} cannot be read in place: the strides are uneven")
        self.names = names


class Launch(NamedTuple):
    """One kernel of a problem.

    Attributes
    ----------
    choice
        Which kernel.
    grid
        Blocks along x and y.
    """

    choice: Choice
    grid: tuple[int, int]


class Plan(NamedTuple):
    """How a problem is solved.

    Attributes
    ----------
    launches
        The kernels, in their order; all get the same :class:`.task.Task`.
    tensors
        The operands in the order of ``OPERANDS``, without their addresses.
    outer, inner, classes
        The lengths of the axes.
    parts, states_bytes
        Into how many parts a row is split, and the memory that their states take.
    """

    launches: tuple[Launch, ...]
    tensors: tuple[Tensor | None, ...]
    outer: int
    inner: int
    classes: int
    parts: int
    states_bytes: int

    def task(self, addresses: Sequence[int], numbers: dict[str, Any]) -> Task:
        """What the kernels are told, given the address of each operand (0 for none)."""
        tensors = [
            NO_TENSOR if tensor is None else tensor._replace(address=address)
            for tensor, address in zip(self.tensors, addresses, strict=True)
        ]
        sizes = {name: getattr(self, name) for name in ("outer", "inner", "classes", "parts")}
        values: dict[str, Any] = {**dict(zip(OPERANDS, tensors, strict=True)), **sizes, **numbers}
        return Task(**values)


OPERANDS = ("logits", "labels", "d_logits", "d_labels", "weights", "upstream")
"""Operands of a problem in the order of :class:`.task.Task`."""


def _rows_shape(dtype: str, classes: int, label_gradient: bool) -> tuple[int, int] | None:
    """How many threads share a row and how many logits each holds; None if it is too long."""
    lanes = 16 // SIZES[dtype]
    for width in _WIDTHS:
        # A block of 512 threads leaves each 128 registers: 32 logits would spill.
        few = label_gradient or width == _WIDTHS[-1]
        largest = _LARGEST.get(dtype, 16 if few else 32)
        for elements in (8, 16, 32):
            if lanes <= elements <= largest and width * elements >= classes:
                return width, elements
    return None


def _columns_shape(classes: int) -> tuple[int, int]:
    """How many threads share an example, and how many a block has."""
    if classes <= 2 * _COLUMN_CLASSES:
        return 1, 128
    return (4, 128) if classes <= 16 * _COLUMN_CLASSES else (16, 512)


@functools.lru_cache(4096)
def make_plan(axis: int, sparse: bool, metas: tuple[Meta | None, ...], processors: int) -> Plan:
    """The plan for operands in the order of ``OPERANDS``.

    Parameters
    ----------
    axis
        The class axis of the logits.
    sparse
        Whether the labels are class indices.
    metas
        The operands; None where there is none. Labels, weights and upstream may be broadcast.
    processors
        How many multiprocessors the device has.

    Raises
    ------
    UnevenStridesError
        If the batch axes of an operand cannot be seen as two evenly strided axes.
    ValueError
        If there are more examples than a launch can compute.
    """
    logits, labels = metas[0], metas[1]
    assert logits is not None
    assert labels is not None
    classes = logits.shape[axis]
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    strides: list[tuple[int, ...]] = []
    class_strides: list[int] = []
    present = [(name, meta) for name, meta in zip(OPERANDS, metas, strict=True) if meta]
    for name, meta in present:
        with_classes = name in ("logits", "d_logits", "d_labels") or (
            name == "labels" and not sparse
        )
        full = broadcast_strides(logits.shape if with_classes else batch, meta.shape, meta.strides)
        class_strides.append(full[axis] if with_classes else 0)
        strides.append(full[:axis] + full[axis + 1 :] if with_classes else full)
    sizes = [SIZES[meta.dtype] * math.prod(meta.shape) for _, meta in present]
    layout = two_axes(batch, strides, sizes)
    found: dict[str, Tensor] = {}
    uneven = tuple(n for (n, _), cut in zip(present, layout.strides, strict=True) if cut is None)
    if uneven:
        raise UnevenStridesError(uneven)
    for (name, _), cut, step in zip(present, layout.strides, class_strides, strict=True):
        assert cut is not None
        found[name] = Tensor(0, *cut, step)
    examples = layout.outer * layout.inner
    chosen = _choose(logits.dtype, "sparse" if sparse else labels.dtype, metas, classes,
                     found["logits"].classes, examples, processors)  # fmt: skip
    launches, parts = chosen
    if any(launch.grid[0] > _MAX_BLOCKS for launch in launches):
        raise ValueError(f"logits have {examples} examples, more than one launch can compute")
    size = 8 if logits.dtype == "float64" else 4
    states = examples * parts * FIELDS * size if parts else 0
    return Plan(
        launches, tuple(found.get(name) for name in OPERANDS),
        layout.outer, layout.inner, classes, parts, states,
    )  # fmt: skip


def _choose(
    dtype: str, labels: str, metas: Sequence[Meta | None], classes: int, step: int,
    examples: int, processors: int,
) -> tuple[tuple[Launch, ...], int]:  # fmt: skip
    gradient, label_gradient = metas[2] is not None or metas[3] is not None, metas[3] is not None
    if step != SIZES[dtype] and classes > 1:
        width, threads = _columns_shape(classes)
        choice = Choice("columns", dtype, labels, gradient, label_gradient, width, threads, 8)
        return (Launch(choice, (-(-examples * width // threads), 1)),), 0
    shape = _rows_shape(dtype, classes, label_gradient)
    if shape is not None:
        width, elements = shape
        threads = max(width, _MIN_THREADS)
        choice = Choice("rows", dtype, labels, gradient, label_gradient, width, threads, elements)
        return (Launch(choice, (-(-examples * width // threads), 1)),), 0
    elements = _LARGEST.get(dtype, 16)
    parts = min(MAX_PARTS, max(1, 2 * processors // max(1, examples)))
    first, second = (
        Choice(family, dtype, labels, gradient, label_gradient, 512, 512, elements)
        for family in ("split", "finish_split")
    )
    # The first kernel is the same whatever gradients are wanted.
    first = first._replace(gradient=False, label_gradient=False)
    return (Launch(first, (examples, parts)), Launch(second, (examples, parts))), parts
