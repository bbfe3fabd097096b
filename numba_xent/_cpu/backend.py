"""A problem on NumPy arrays in, losses and gradients out.

What a kernel must be told follows from the shapes, strides and dtypes of the arrays, but for their
addresses and a few numbers. It is worked out once for each combination, as a :class:`Recipe`.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._arrays import Array, address, compute_dtype, dtype_name, in_dtype
from .._layout import Layout, broadcast_strides, two_axes
from . import memory
from .kernels import SUM_SIZE, SUMMED, checker, solver, summer
from .launch import launcher
from .record import DTYPE, TENSORS, Shape, Tensor, pack
from .schedule import GRADIENTS, LOSSES, STATES, WHOLE
from .threads import available_threads
from .vector import HALVES, LANES, REGISTERS
from .workspace import SAVED, plan

if TYPE_CHECKING:
    from .._problem import Problem

FEW_CLASSES = 64
"""Up to so many classes, lanes are examples even where classes are contiguous."""

NEAR = 64
"""Lanes are classes only if neighbouring classes lie within so many bytes, a cache line."""

CHUNK = 256
"""Registers in a chunk: 16 KiB, a third of an L1 cache."""

GROUP = 2 * CHUNK
"""Registers of examples that are solved together, if each is no more than a chunk."""

STREAMED = 1 << 22
"""Bytes from which on a gradient is written past the caches."""

KEPT = 512 << 10
"""Bytes of exponentials that a task keeps. Longer units are cut into pieces of that size, which any
thread may take, and read their logits twice."""

CACHED = 4 << 20
"""Bytes of longer units that are gone through before others: their second reading finds them in the
caches that processors share."""

PANELS = 640 << 10
"""Bytes of all panels of a task, at most."""

SCRATCH = 1 << 20
"""Bytes of a task's scratch memory, at most: panels get what is left of it."""

PANEL_UNITS = 32
"""Units in a panel, at most."""

LEAST_UNITS = {2: 16, 1: 2}
"""Units in a panel, at least, if there are two panels of an operand or one. Shorter runs of memory
take longer than it saves to bring one while the other is solved ([500, 65536] axis 0, 5 units, 1.3
times as long); with less than two units they take 1.6 times as long as with no panels at all."""

TURNED = 4 << 10
"""Bytes of one operand in a panel that is made by transposing. A call for each unit takes 1.2 to
1.4 times as long where there are four classes; with 8 KiB memory waits between panels (20 classes,
large, 1.1 to 1.3 times as long)."""

PARALLEL_ELEMENTS = 1 << 16
"""From so many logits on, a problem is worth waking other threads."""

_OUTPUTS = frozenset(("loss", "d_logits", "d_labels"))
_OPERANDS = ("logits", "labels", "loss", "weights", "upstream", "d_logits", "d_labels")
"""Arrays of a problem in the order in which they are handled; None where there is none."""

_WITH_CLASSES = frozenset(("logits", "labels", "d_logits", "d_labels"))
_NUMBER = struct.Struct("=q")
_TASKS_AND_NUMBERS = struct.Struct("=q3d")
_ADDRESS_OFFSETS = [DTYPE.fields[name][1] for name in _OPERANDS]  # type: ignore[index]
_LOSSES_OFFSET = DTYPE.fields["losses"][1]  # type: ignore[index]
_STREAM_OFFSET = DTYPE.fields["d_logits"][1] + DTYPE["d_logits"].fields["stream"][1]  # type: ignore[index]
_TASKS_OFFSET = DTYPE.fields["tasks"][1]  # type: ignore[index]


Meta = tuple[np.dtype[Any], tuple[int, ...], tuple[int, ...]]
"""The dtype, shape and strides of an array."""


class Recipe(NamedTuple):
    """How problems with arrays of certain shapes, strides and dtypes are computed.

    Attributes
    ----------
    copies
        The operands and outputs that must be replaced by contiguous arrays first; if there are
        any, the recipe says nothing else.
    template
        The kernels' record, without addresses, tasks and numbers.
    kernels
        What checks the labels, solves, and adds up the losses, see :func:`.launch.launcher`.
    large
        Whether the problem is worth more than one thread.
    lines
        Whether the gradient is written past the caches in whole cache lines.
    """

    copies: tuple[str, ...]
    template: bytes = b""
    kernels: tuple[int, int, int] = (0, 0, 0)
    large: bool = False
    lines: bool = False


def _metas(operands: tuple[Array | None, ...]) -> tuple[Meta | None, ...]:
    return tuple([a if a is None else (a.dtype, a.shape, a.strides) for a in operands])


def _lanes_lie_along_outer(
    layout: Layout, strides: tuple[int, int], itemsize: int, lanes: int
) -> bool:
    """Whether the examples in the lanes of columns are better taken along the outer axis."""
    if layout.outer == 1 or layout.inner == 1:
        return layout.inner == 1
    outer_near = strides[0] == itemsize and layout.outer >= lanes
    inner_near = strides[1] == itemsize and layout.inner >= lanes
    return outer_near > inner_near or (outer_near == inner_near and layout.outer > layout.inner)


def _mover(name: str, dtype: str, compute: str, index: bool) -> int:
    """The address of what converts the numbers of a tensor, or gathers them."""
    if name in _OUTPUTS:
        return memory.writer(compute, dtype)
    if index:
        return memory.index_reader(dtype)
    return memory.reader(compute, dtype)


def _is_streamed(meta: Meta, axis: int, first: int, second: int, lines: bool) -> bool:
    """Whether a gradient is worth being written past the caches, and can be.

    Rows must lie in one piece; of columns, whole cache lines are written (`lines`).
    """
    dtype, shape, strides = meta
    if lines:
        lies_well = second == dtype.itemsize and not any(
            n % memory.LINE for n in (first, strides[axis])
        )
    else:
        lies_well = strides[axis] == dtype.itemsize and second == strides[axis] * shape[axis]
    return lies_well and _nbytes(meta) >= STREAMED


def _nbytes(meta: Meta) -> int:
    size = meta[0].itemsize
    for n in meta[1]:
        size *= n
    return size


def _stored_as(compute: str, tiles: list[tuple[np.dtype[Any], int]]) -> str:
    """The dtype of the registers that rows are loaded and stored as.

    `tiles` holds the dtypes of all tensors that have classes, and the steps from one to the next.
    """
    dtype, step = tiles[0]
    if dtype_name(dtype) in HALVES and step == dtype.itemsize and len(set(tiles)) == 1:
        return dtype_name(dtype)
    return compute


def _examples_in_unit(lanes: int, vectors: int) -> int:
    """How many rows make a unit; those of several chunks must be solved one by one."""
    return min(lanes, GROUP // vectors) if vectors <= CHUNK else 1


class Cut(NamedTuple):
    """How all tensors of a problem are cut into registers and units.

    Attributes
    ----------
    compute, rows, lanes, group
        The compute dtype, the schedule, lanes of a register, examples in a unit.
    even
        Whether units fill their registers to the last.
    lines
        Whether a gradient that is written past the caches is so in whole cache lines, one by one.
    """

    compute: str
    rows: bool
    lanes: int
    group: int
    even: bool
    lines: bool


def _tensor(
    name: str, meta: Meta, axis: int, steps: tuple[int, int], class_step: int | None, cut: Cut
) -> Tensor:
    """What a kernel is told about a tensor; `class_step` is None for one without classes."""
    first, second = steps
    step = class_step or 0
    itemsize = meta[0].itemsize
    dtype = dtype_name(meta[0])
    index = name == "labels" and class_step is None
    plain = dtype == ("int64" if index else cut.compute)
    # Numbers of examples are used where they lie, wherever that is; labels, if they are next to
    # each other, and classes, if they also fill a register.
    moved = not plain
    if index:
        moved |= second != itemsize
    elif class_step is not None:
        moved |= not cut.even or (step if cut.rows else second) != itemsize
    return Tensor(
        outer=first,
        unit=cut.group * second,
        example=second,
        classes=step,
        vector=cut.lanes * step if cut.rows else step,
        mover=_mover(name, dtype, cut.compute, index) if moved else 0,
        plain=plain,
        stream=name == "d_logits"
        and (cut.rows or plain)
        and _is_streamed(meta, axis, first, second, cut.lines),
    )


def _is_turned(meta: Meta, class_step: int, example_step: int) -> bool:
    """Whether the classes of a tensor of columns are next to each other, its examples are not."""
    return class_step == meta[0].itemsize != example_step


class PanelShape(NamedTuple):
    """The panels of columns, see :class:`.record.Shape`.

    Attributes
    ----------
    units
        Units in each, 0 if there are none.
    sides
        How many panels there are of each operand.
    turned, collected
        Whether they are made by transposing, and leave so as panels of gradients.
    """

    units: int = 0
    sides: int = 1
    turned: bool = False
    collected: bool = False


def _panels(
    lying: dict[str, tuple[Meta, int, int]], classes: int, register: int, room: int
) -> PanelShape:
    """How units of columns make panels of so many bytes in all.

    How the tensors with classes lie is given by the steps from class to class and from example to
    example. There are panels if all operands are to be transposed, or if they are large and have
    their examples next to each other; of the latter each has two, if there is room for enough units.
    """
    operands = [steps for name, steps in lying.items() if name not in _OUTPUTS]
    if all(_is_turned(*steps) for steps in operands):
        collected = "d_logits" in lying and _is_turned(*lying["d_logits"])
        return PanelShape(max(1, TURNED // (classes * register)), 1, True, collected)
    if all(example == meta[0].itemsize for meta, _, example in operands) and (
        max(_nbytes(meta) for meta, _, _ in operands) >= STREAMED
    ):
        for sides in (2, 1):
            run = room // (sides * len(operands) * classes)
            units = min(PANEL_UNITS, (run - memory.LINE) // register)
            if units >= LEAST_UNITS[sides]:
                return PanelShape(units, sides)
    return PanelShape()


@functools.lru_cache(maxsize=1024)
def _recipe(
    axis: int, dense: bool, raw: bool, operands: tuple[Meta | None, ...], missing: int = 0
) -> Recipe:
    """Work out a recipe from what is known of the arrays, in the order of ``_OPERANDS``.

    So many examples are `missing` from the first unit of each outer index.
    """
    given = {n: meta for n, meta in zip(_OPERANDS, operands, strict=True) if meta is not None}
    names, metas = tuple(given), tuple(given.values())
    dtype, shape, strides = metas[0]
    compute = compute_dtype(dtype)
    batch = shape[:axis] + shape[axis + 1 :]
    classes = shape[axis]
    gradient = "d_logits" in names or "d_labels" in names
    class_stride = strides[axis] if classes > 1 else 0
    # By the distance of the classes alone: a batch and its pieces must be computed alike.
    rows = classes > FEW_CLASSES and -NEAR <= class_stride <= NEAR
    lanes = LANES[compute] if rows else REGISTERS * LANES[compute]

    class_strides: dict[str, int] = {}
    batch_strides: list[tuple[int, ...]] = []
    for name, (_, own, steps) in zip(names, metas, strict=True):
        if name in _WITH_CLASSES and (dense or name != "labels"):
            class_strides[name] = steps[axis] if own[axis] > 1 else 0
            own, steps = own[:axis] + own[axis + 1 :], steps[:axis] + steps[axis + 1 :]  # noqa: PLW2901
        batch_strides.append(steps if own == batch else broadcast_strides(batch, own, steps))
    layout = two_axes(batch, batch_strides, [_nbytes(meta) for meta in metas])
    copies = tuple(n for n, cut in zip(names, layout.strides, strict=True) if cut is None)
    if copies:
        return Recipe(copies)

    outer, inner = layout.outer, layout.inner
    cuts = {n: cut for n, cut in zip(names, layout.strides, strict=True) if cut is not None}
    if not rows and _lanes_lie_along_outer(layout, cuts["logits"], dtype.itemsize, lanes):
        outer, inner = inner, outer
        cuts = {name: (second, first) for name, (first, second) in cuts.items()}
    vectors, tail = divmod(classes, lanes) if rows else (classes, 0)
    chunks = max(1, -(-vectors // CHUNK))
    group = _examples_in_unit(lanes, vectors) if rows else lanes
    tiles = [(given[name][0], step) for name, step in class_strides.items()]
    stored = _stored_as(compute, tiles) if rows else compute
    register = lanes * np.dtype(compute).itemsize
    piece = KEPT // (CHUNK * register)
    pieces = -(-chunks // piece)
    units = -(-(inner + missing) // group)
    blocks = outer * -(-inner // SUMMED)
    divide = functools.partial(
        plan,
        register,
        lanes,
        vectors,
        CHUNK,
        copies=group if rows else 1,
        keep=pieces == 1,
        gradient=gradient,
        dense=dense,
    )
    room = min(PANELS, SCRATCH - divide(panel=0, collected=0).size)
    lying = {n: (given[n], step, cuts[n][1]) for n, step in class_strides.items()}
    panels = PanelShape() if rows or pieces > 1 else _panels(lying, classes, register, room)
    pitch = panels.units * register + memory.LINE if panels.units else 0
    cut_up = Cut(
        compute,
        rows,
        lanes,
        group,
        even=rows or not (inner % lanes or missing),
        lines=not rows and not panels.collected,
    )
    tensors = {
        name: _tensor(name, meta, axis, cuts[name], class_strides.get(name), cut_up)
        for name, meta in given.items()
    }
    tensors["losses"] = tensors["loss"]
    span = outer * units * pieces
    if pieces > 1:
        read = sum(given[name][0].itemsize for name in class_strides if name not in _OUTPUTS)
        span = max(1, CACHED // (classes * group * read)) * pieces
    saved = outer * units * pieces * SAVED * lanes * 8 if pieces > 1 else 0
    record = pack(
        tuple(tensors.get(name, Tensor()) for name in TENSORS),
        Shape(
            rows=rows,
            classes=classes,
            outer=outer,
            inner=inner,
            group=group,
            missing=missing,
            units=units,
            vectors=vectors,
            tail=tail,
            chunk=CHUNK,
            chunks=chunks,
            piece=piece if pieces > 1 else chunks,
            pieces=pieces,
            panel=panels.units,
            pitch=pitch,
            sides=panels.sides,
            turned=panels.turned,
            collected=panels.collected,
            keep=pieces == 1,
            waits=rows
            and pieces == 1
            and "d_labels" not in names
            and all(dtype_name(d) == stored and step == d.itemsize for d, step in tiles),
            raw=raw,
            phase=WHOLE if pieces == 1 else STATES,
            phases=1 + (WHOLE if pieces == 1 else GRADIENTS if gradient else LOSSES),
            span=span,
            blocks=blocks,
            results_size=max(saved, SUM_SIZE * blocks if raw else 0),
        ),
        divide(
            panel=panels.sides * classes * pitch,
            collected=classes * pitch if panels.collected else 0,
        ),
    )
    kernels = (
        0 if dense else checker(),
        solver(compute, stored, rows, dense, gradient),
        summer(compute) if raw else 0,
    )
    return Recipe(
        (),
        record,
        kernels,
        large=classes * outer * inner >= PARALLEL_ELEMENTS,
        lines=cut_up.lines and tensors.get("d_logits", Tensor()).stream != 0,
    )


def _contiguous(name: str, array: Array, axis: int, dense: bool, batch: tuple[int, ...]) -> Array:
    """An array that fits every recipe: the same elements, contiguous with the class axis last.

    It is returned as a view with the axes of the original; outputs are left uninitialised.
    """
    if name in _WITH_CLASSES and (dense or name != "labels"):
        moved = np.moveaxis(array, axis, -1)
        shape = (*batch, moved.shape[-1])
    else:
        moved, shape = array, batch
    if name in _OUTPUTS:
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
    recipe = _recipe(axis, dense, raw, _metas(operands))
    copied: dict[str, Array] = {}
    if recipe.copies:
        copied = {
            name: _contiguous(name, array, axis, dense, problem.batch_shape)
            for name, array in zip(_OPERANDS, given, strict=True)
            if array is not None and name in recipe.copies
        }
        operands = tuple(map(copied.get, _OPERANDS, given))
        recipe = _recipe(axis, dense, raw, _metas(operands))

    target = copied.get("d_logits", d_logits)
    # In place, the lines of the gradient are in the caches already.
    in_place = target is not None and address(target) == address(problem.logits)
    if target is not None and recipe.lines and not in_place:
        missing = address(target) % memory.LINE // target.itemsize
        if missing:
            recipe = _recipe(axis, dense, raw, _metas(operands), missing)
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
        for name, array in zip(_OPERANDS, given, strict=True):
            if array is not None and name in _OUTPUTS and name in copied:
                array[...] = copied[name]
    return total
