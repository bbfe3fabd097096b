"""Which kernels solve a problem, and what they are told: from shapes, strides and dtypes alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._layout import broadcast_strides, two_axes
from .device import SIZES
from .kernels import Choice
from .split import NUMBERS
from .task import Task, Tensor

MAX_PARTS = 32
"""Into so many parts a row is split at most: a warp merges them at once."""

_BLOCK = 512
_CLUSTERS = (2, 4, 8)
_LANES_OF_ALL = 4  # numbers of a vector with whose sums 128 registers are enough
_MAX_BLOCKS = 2**31 - 1
_MAX_CLASSES = 2**31 - 1

NO_TENSOR = Tensor(0, 0, 0, 0)


class Meta(NamedTuple):
    """What is known of an operand besides its address."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    phase: int | None = None
    """The address modulo 16, without which nothing is read 16 bytes at a time."""


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

    @property
    def cluster(self) -> int:
        """How many blocks along x make a cluster."""
        return self.choice.cluster


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


def most_elements(
    family: str, dtype: str, labels: str, label_gradient: bool, smooth: bool, clusters: bool
) -> int:
    """How many logits a thread of a family of kernels holds at most, so that nothing spills.

    The assembler for GPUs without clusters needs more registers for the same kernel.
    """
    dense = labels != "sparse" or label_gradient
    more = label_gradient or smooth
    if dtype == "float64":
        if clusters:
            return 4 if more else 8
        return 2 if label_gradient else 4 if dense else 8
    if not dense:
        return 32 if clusters else 24
    if (family == "online" and smooth) or (family == "columns" and more and not clusters):
        return 8
    return 16


def _rows_shape(lanes: int, classes: int, largest: int, clusters: bool) -> tuple[int, int] | None:
    """How many threads share a row and how many logits each holds; None if it is too long."""
    widths = [max(8, 2 * lanes), 32, 128, _BLOCK, *(_BLOCK * n for n in _CLUSTERS * clusters)]
    for width in widths:
        for elements in sorted({8, 16, largest}):
            if lanes <= elements <= max(largest, lanes) and width * elements >= classes:
                return width, elements
    return None


def _columns_shape(lanes: int, classes: int, largest: int, dense: bool) -> tuple[int, int, bool]:
    """How many threads share an example, how many logits each holds, and whether that is all."""
    most = max(1, largest // lanes)
    for width in (4, 16, 64):
        for held in (1, 2, 4, 8):
            if held <= most and width * held >= classes:
                return width, held * lanes, True
    # The sums of eight examples need the registers of twice as many threads.
    width = 32 if dense and lanes > _LANES_OF_ALL else 64
    return width, min(8, most, max(1, 16 // lanes)) * lanes, False


def _in_vectors(rows: bool, found: dict[str, tuple[Meta, Tensor]], inner: int) -> bool:
    """Whether all operands with classes can be moved 16 bytes at a time, and cut alike."""
    first = found["logits"][0]
    size, lanes = SIZES[first.dtype], 16 // SIZES[first.dtype]
    for meta, at in found.values():
        if meta.dtype != first.dtype or meta.phase is None or meta.phase != first.phase:
            return False
        mine, theirs = at[1:], found["logits"][1][1:]
        if rows:
            if at.classes != size or any((a - b) % 16 for a, b in zip(mine, theirs, strict=True)):
                return False
        elif at.inner != size or inner % lanes or meta.phase or at.outer % 16 or at.classes % 16:
            return False
    return True


@functools.lru_cache(4096)
def make_plan(
    axis: int,
    sparse: bool,
    metas: tuple[Meta | None, ...],
    processors: int,
    clusters: bool = False,
    smooth: bool = True,
) -> Plan:
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
    clusters
        Whether blocks may read each other's shared memory: compute capability 9.0 and above.
    smooth
        Whether labels are smoothed; there may be as well nothing to smooth.

    Raises
    ------
    UnevenStridesError
        If the batch axes of an operand cannot be seen as two evenly strided axes.
    ValueError
        If there are more examples than a launch can compute, or more classes than a kernel counts.
    """
    logits, labels = metas[0], metas[1]
    assert logits is not None
    assert labels is not None
    classes = logits.shape[axis]
    if classes > _MAX_CLASSES:
        raise ValueError(f"logits must have at most {_MAX_CLASSES} classes, got {classes}")
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    strides: list[tuple[int, ...]] = []
    class_strides: list[int] = []
    present = [(name, meta) for name, meta in zip(OPERANDS, metas, strict=True) if meta]
    with_classes = {"logits", "d_logits", "d_labels"} | ({"labels"} if not sparse else set())
    for name, meta in present:
        along = name in with_classes
        full = broadcast_strides(logits.shape if along else batch, meta.shape, meta.strides)
        class_strides.append(full[axis] if along else 0)
        strides.append(full[:axis] + full[axis + 1 :] if along else full)
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
    held = {name: (meta, found[name]) for name, meta in present if name in with_classes}
    launches, parts = _choose(
        held, "sparse" if sparse else labels.dtype, classes, examples,
        layout.inner, processors, clusters, smooth and not sparse,
    )  # fmt: skip
    if any(launch.grid[0] > _MAX_BLOCKS for launch in launches):
        raise ValueError(f"logits have {examples} examples, more than one launch can compute")
    size = 8 if logits.dtype == "float64" else 4
    states = examples * parts * NUMBERS * size if parts else 0
    return Plan(
        launches, tuple(found.get(name) for name in OPERANDS),
        layout.outer, layout.inner, classes, parts, states,
    )  # fmt: skip


def _choose(
    held: dict[str, tuple[Meta, Tensor]], labels: str, classes: int, examples: int, inner: int,
    processors: int, clusters: bool, smooth: bool,
) -> tuple[tuple[Launch, ...], int]:  # fmt: skip
    """The kernels, and into how many parts they split a row (0 if they do not)."""
    dtype = held["logits"][0].dtype
    label_gradient = "d_labels" in held
    gradient = label_gradient or "d_logits" in held
    most = functools.partial(
        most_elements, dtype=dtype, labels=labels, label_gradient=label_gradient, smooth=smooth,
        clusters=clusters,
    )  # fmt: skip
    rows = held["logits"][1].classes == SIZES[dtype] or classes == 1
    vectors = _in_vectors(rows, held, inner)
    lanes = 16 // SIZES[dtype] if vectors else 1
    make = functools.partial(Choice, dtype=dtype, labels=labels, vectors=vectors, smooth=smooth)
    wanted: dict[str, Any] = {"gradient": gradient, "label_gradient": label_gradient}
    if not rows:
        width, elements, once = _columns_shape(lanes, classes, most("columns"), labels != "sparse")
        threads = max(128, 8 * width)
        choice = make("columns", **wanted, width=width, threads=threads, elements=elements,
                      once=once)  # fmt: skip
        blocks = -(-examples // (threads // width * lanes))
        return (Launch(choice, (blocks, 1)),), 0
    elements = max(lanes, min(most("online"), 16))
    long: dict[str, Any] = {"width": _BLOCK, "threads": _BLOCK, "elements": elements, "once": False}
    largest = most("rows")
    one_block = _BLOCK * largest
    parts = min(MAX_PARTS, 2 * processors // max(examples, 1))
    if classes > one_block and parts > 1 and examples * _CLUSTERS[-1] < processors:
        first = make("split", gradient=False, label_gradient=False, **long)
        second = make("finish_split", **wanted, **long)
        return (Launch(first, (examples, parts)), Launch(second, (examples, parts))), parts
    shape = _rows_shape(lanes, classes, largest, clusters)
    if shape is None:
        return (Launch(make("online", **wanted, **long), (examples, 1)),), 0
    width, elements = shape
    threads = min(max(width, 128), _BLOCK)
    choice = make("rows", **wanted, width=width, threads=threads, elements=elements)
    return (Launch(choice, (-(-examples * width // threads), 1)),), 0
