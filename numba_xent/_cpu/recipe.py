"""What a kernel must be told, worked out once for each combination of shapes, strides and dtypes.

All of it follows from those, but for addresses and a few numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._arrays import compute_dtype, dtype_name
from .._layout import Layout, broadcast_strides, two_axes
from . import memory
from .cutting import (
    CHUNK,
    PANELS,
    STREAMED,
    Lie,
    Panels,
    chunks_in_piece,
    panels_of,
    panels_of_runs,
    runs_pay,
    span_and_block,
    units_in,
)
from .kernels import SUM_SIZE, SUMMED, checker, solver, summer
from .order import GRADIENTS, LOSSES, STATES, WHOLE
from .record import TENSORS, Shape, Tensor, pack
from .runs import run_reader, run_writer
from .vector import HALVES, LANES, REGISTERS
from .workspace import SAVED, STAGE_SIZE, Plan, plan

FEW_CLASSES = 64
"""Up to so many classes, lanes are examples even where classes are contiguous."""

NEAR = 64
"""Lanes are classes only if neighbouring classes lie within so many bytes, a cache line."""

GROUP = 2 * CHUNK
"""Registers of examples that are solved together, if each is no more than a chunk."""

SCRATCH = 1 << 20
"""Bytes of a task's scratch memory, at most: panels get what is left of it."""

PARALLEL_ELEMENTS = 1 << 16
"""From so many logits on, a problem is worth waking other threads."""

OUTPUTS = frozenset(("loss", "d_logits", "d_labels"))
OPERANDS = ("logits", "labels", "loss", "weights", "upstream", "d_logits", "d_labels")
"""Arrays of a problem in the order in which they are handled; None where there is none."""

WITH_CLASSES = frozenset(("logits", "labels", "d_logits", "d_labels"))


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


def _lanes_lie_along_outer(
    layout: Layout, strides: tuple[int, int], itemsize: int, lanes: int
) -> bool:
    """Whether the examples in the lanes of columns are better taken along the outer axis."""
    if layout.outer == 1 or layout.inner == 1:
        return layout.inner == 1
    outer_near = strides[0] == itemsize and layout.outer >= lanes
    inner_near = strides[1] == itemsize and layout.inner >= lanes
    return outer_near > inner_near or (outer_near == inner_near and layout.outer > layout.inner)


class Batch(NamedTuple):
    """The two axes of all examples.

    Attributes
    ----------
    outer, inner
        Their lengths; neighbouring examples in a unit lie along the second one.
    run
        See :class:`.record.Shape`.
    steps
        The steps along the two axes in each tensor; along two that are none if there are runs.
    """

    outer: int
    inner: int
    run: int
    steps: dict[str, tuple[int, int]]


def _batch_of(
    layout: Layout,
    given: dict[str, Meta],
    class_strides: dict[str, int],
    lanes: int,
    runs: bool,
    rows: bool,
) -> Batch:
    """The two axes, if panels may be made of short runs or must not.

    Short runs of examples are put side by side if all tensors without classes have them so.
    """
    outer, inner = layout.outer, layout.inner
    steps = {n: s for n, s in zip(given, layout.strides, strict=True) if s is not None}
    if runs and all(
        second == given[name][0].itemsize if name in class_strides else first == second * inner
        for name, (first, second) in steps.items()
    ):
        return Batch(1, outer * inner, inner, steps)
    if not rows and _lanes_lie_along_outer(
        layout, steps["logits"], given["logits"][0].itemsize, lanes
    ):
        return Batch(inner, outer, 0, {n: (second, first) for n, (first, second) in steps.items()})
    return Batch(outer, inner, 0, steps)


def _lies(
    given: dict[str, Meta], steps: dict[str, tuple[int, int]], class_strides: dict[str, int]
) -> dict[str, Lie]:
    """How the tensors with classes lie."""
    return {
        name: Lie(
            dtype_name(given[name][0]),
            given[name][0].itemsize,
            _nbytes(given[name]),
            *steps[name],
            step,
        )
        for name, step in class_strides.items()
    }


def _mover(name: str, dtype: str, compute: str, index: bool) -> int:
    """The address of what converts the numbers of a tensor, or gathers them."""
    if name in OUTPUTS:
        return memory.writer(compute, dtype)
    if index:
        return memory.index_reader(dtype)
    return memory.reader(compute, dtype)


def _is_streamed(lie: Lie, classes: int, cut: Cut) -> bool:
    """Whether a gradient is worth being written past the caches, and can be.

    Rows must lie in one piece; of columns, whole cache lines are written.
    """
    if cut.run:
        block = lie.itemsize * cut.run * classes
        lies_well = lie.classes * classes == lie.outer == block <= STAGE_SIZE
    elif cut.lines:
        lies_well = lie.has_runs and (cut.collected or lie.is_in_lines)
    else:
        lies_well = lie.classes == lie.itemsize and lie.example == lie.itemsize * classes
    plain = cut.rows or cut.run > 0 or lie.dtype == cut.compute
    return lies_well and plain and lie.nbytes >= STREAMED


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
    run, collected
        See :class:`.record.Shape`.
    lines
        Whether a gradient that is written past the caches is so in whole cache lines.
    """

    compute: str
    rows: bool
    lanes: int
    group: int
    even: bool
    run: int
    collected: bool
    lines: bool


def _tensor(
    name: str, kind: np.dtype[Any], steps: tuple[int, int], lie: Lie | None, classes: int, cut: Cut
) -> Tensor:
    """What a kernel is told about a tensor; `lie` is None for one without classes."""
    first, second = steps
    step = lie.classes if lie else 0
    dtype = dtype_name(kind)
    index = name == "labels" and lie is None
    plain = dtype == ("int64" if index else cut.compute)
    # Numbers of examples are used where they lie, wherever that is; labels, if they are next to
    # each other, and classes, if they also fill a register.
    moved = not plain
    if index:
        moved |= second != kind.itemsize
    elif lie:
        moved |= not cut.even or (step if cut.rows else second) != kind.itemsize
    return Tensor(
        outer=first,
        unit=cut.group * second,
        example=second,
        classes=step,
        vector=cut.lanes * step if cut.rows else step,
        mover=_mover(name, dtype, cut.compute, index) if moved else 0,
        plain=plain,
        stream=name == "d_logits" and lie is not None and _is_streamed(lie, classes, cut),
    )


def _room_for_panels(divide: Callable[..., Plan], keep: bool) -> int:
    """How many bytes of panels there may be beside what else is in scratch memory."""
    return min(PANELS, SCRATCH - divide(keep=keep, panel=0).size)


def _lay(given: dict[str, Meta], axis: int, dense: bool) -> tuple[Layout, dict[str, int]]:
    """Two axes for all examples, and the steps from class to class of tensors that have classes."""
    _, shape, _ = given["logits"]
    batch = shape[:axis] + shape[axis + 1 :]
    class_strides: dict[str, int] = {}
    batch_strides: list[tuple[int, ...]] = []
    for name, (_, own, steps) in given.items():
        if name in WITH_CLASSES and (dense or name != "labels"):
            class_strides[name] = steps[axis] if own[axis] > 1 else 0
            own, steps = own[:axis] + own[axis + 1 :], steps[:axis] + steps[axis + 1 :]  # noqa: PLW2901
        batch_strides.append(steps if own == batch else broadcast_strides(batch, own, steps))
    layout = two_axes(batch, batch_strides, [_nbytes(meta) for meta in given.values()])
    return layout, class_strides


@functools.lru_cache(maxsize=1024)
def recipe_for(
    axis: int, dense: bool, raw: bool, operands: tuple[Meta | None, ...], missing: int = 0
) -> Recipe:
    """Work out a recipe from what is known of the arrays, in the order of ``OPERANDS``.

    So many examples are `missing` from the first unit of each outer index.
    """
    given = {n: meta for n, meta in zip(OPERANDS, operands, strict=True) if meta is not None}
    dtype, shape, strides = given["logits"]
    compute = compute_dtype(dtype)
    classes = shape[axis]
    gradient = "d_logits" in given or "d_labels" in given
    class_stride = strides[axis] if classes > 1 else 0
    # By the distance of the classes alone: a batch and its pieces must be computed alike.
    rows = classes > FEW_CLASSES and -NEAR <= class_stride <= NEAR
    lanes = LANES[compute] if rows else REGISTERS * LANES[compute]

    layout, class_strides = _lay(given, axis, dense)
    copies = tuple(n for n, steps in zip(given, layout.strides, strict=True) if steps is None)
    if copies:
        return Recipe(copies)

    vectors, tail = divmod(classes, lanes) if rows else (classes, 0)
    chunks = max(1, -(-vectors // CHUNK))
    group = _examples_in_unit(lanes, vectors) if rows else lanes
    register = lanes * np.dtype(compute).itemsize
    divide = functools.partial(
        plan,
        register,
        lanes,
        vectors,
        CHUNK,
        copies=group if rows else 1,
        gradient=gradient,
        dense=dense,
    )
    room = _room_for_panels(divide, keep=True)
    runs = (
        not rows
        and layout.outer > 1
        and "d_labels" not in given
        and runs_pay(layout.inner, classes, gradient)
        and units_in(room, (1 + dense) * classes, register) > 0
    )
    batch = _batch_of(layout, given, class_strides, lanes, runs, rows)
    outer, inner = batch.outer, batch.inner
    tiles = [(given[name][0], step) for name, step in class_strides.items()]
    stored = _stored_as(compute, tiles) if rows else compute
    lies = _lies(given, batch.steps, class_strides)
    read = [lie for name, lie in lies.items() if name not in OUTPUTS]
    piece, panels = chunks, Panels()
    if batch.run:
        panels = panels_of_runs(batch.run, group, classes, register, gradient)
    else:
        piece = chunks_in_piece(rows, read, classes, chunks, register, room, gradient)
    pieces = -(-chunks // piece)
    together = min(classes, piece * CHUNK)
    if not rows and not batch.run:
        room = _room_for_panels(divide, pieces == 1)
        panels = panels_of(read, lies.get("d_logits"), compute, together, register, room)
    units = -(-(inner + missing) // group)
    blocks = outer * -(-inner // SUMMED)
    pitch = panels.units * register + memory.LINE if panels.units else 0
    cut = Cut(
        compute,
        rows,
        lanes,
        group,
        even=rows or not (batch.run or inner % lanes or missing),
        run=batch.run,
        collected=panels.collected,
        lines=not rows and not (panels.turned and panels.collected),
    )
    tensors = {
        name: _tensor(name, meta[0], batch.steps[name], lies.get(name), classes, cut)
        for name, meta in given.items()
    }
    tensors["losses"] = tensors["loss"]
    span = block = outer * units
    if pieces > 1:
        unit = classes * group * sum(lie.itemsize for lie in read)
        span, block = span_and_block(unit, panels)
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
            piece=piece,
            pieces=pieces,
            most_units=block,
            panel=panels.units,
            pitch=pitch,
            panel_classes=together,
            side=(panels.sides - 1) * together * pitch,
            run=batch.run,
            bring_runs=run_reader(compute, dense) if batch.run else 0,
            leave_runs=run_writer(compute) if batch.run and gradient else 0,
            turned=panels.turned,
            collected=panels.collected,
            keep=pieces == 1,
            waits=rows
            and pieces == 1
            and "d_labels" not in given
            and all(dtype_name(d) == stored and step == d.itemsize for d, step in tiles),
            raw=raw,
            phase=WHOLE if pieces == 1 else STATES,
            phases=1 + (WHOLE if pieces == 1 else GRADIENTS if gradient else LOSSES),
            span=span,
            saved=SAVED * lanes * 8 if pieces > 1 else 0,
            blocks=blocks,
            results_size=SUM_SIZE * blocks if raw else 0,
        ),
        divide(
            keep=pieces == 1,
            panel=panels.sides * together * pitch,
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
        lines=cut.lines
        and tensors.get("d_logits", Tensor()).stream != 0
        and lies["d_logits"].is_in_lines,
    )
