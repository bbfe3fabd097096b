"""Numbers of the examples of a unit, in the lanes of a register: read, written, and looked up."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._math.constants import constants
from .._math.cross_entropy import Finished, class_loss, smooth
from .._math.primitives import widen
from .compile import inlined
from .extent import start_of
from .halves import is_half, widened
from .intrinsics import (
    first_lane,
    load,
    load_part,
    part_of,
    pointer,
    size_of,
    spread,
    store,
    store_part,
)
from .memory import read_indices, read_tile, write_tile
from .workspace import Workspace

_I64 = np.int64(0)

SLOT, OTHER, SCALE, AT_LABEL = 0, 1, 2, 3
"""Registers of ``Workspace.examples``; the first two are free to use for a moment. The others are
what gradients are multiplied by, and the gradients of the labels' classes."""


@inlined
def slot_of(work: Workspace, which: int, zero: Any) -> Any:
    """The place of one of the registers for numbers of examples."""
    return work.examples + which * size_of(zero)


@inlined
def of_example(rows: Any, place: Any, r: int, zero: Any) -> Any:
    """A register of numbers of examples (columns), or that of example `r` in all lanes (rows)."""
    if rows is None:
        return load(place, zero)
    return spread(widen(load(place + r * size_of(first_lane(zero)), first_lane(zero))), zero)


@inlined
def _is_contiguous(t: Any, zero: Any) -> bool:
    return t.plain != 0 and t.example == size_of(first_lane(zero))


@inlined
def read_numbers(t: Any, place: Any, count: int, buffer: Any, zero: Any) -> Any:
    """A number of each of `count` examples, in the lanes of a float64 register; 0 in the others."""
    if _is_contiguous(t, zero):
        return widen(load_part(place, count, zero))
    if t.plain == 0:
        read_tile(t, place, t.example, count, 1, 0.0, buffer, zero)
    else:
        number = first_lane(zero)
        store(buffer, zero)
        for i in range(count):
            store(buffer + i * size_of(number), load(place + i * t.example, number))
    return widen(load(buffer, zero))


@inlined
def read_optional(t: Any, place: Any, count: int, buffer: Any, zero: Any) -> Any:
    """Like `read_numbers`; ones where there is no tensor."""
    if t.address == 0:
        return widen(zero + constants(zero).one)
    return read_numbers(t, place, count, buffer, zero)


@inlined
def write_numbers(t: Any, place: Any, count: int, value: Any, buffer: Any, zero: Any) -> None:
    """Write a number of each of `count` examples, rounded to the dtype of `zero`."""
    if _is_contiguous(t, zero):
        store_part(place, spread(value, zero), count)
    else:
        store(buffer, spread(value, zero))
        if t.plain == 0:
            write_tile(t, place, t.example, count, 1, buffer, zero)
        else:
            number = first_lane(zero)
            for i in range(count):
                store(place + i * t.example, load(buffer + i * size_of(number), number))


@inlined
def indices_of(p: Any, o: int, u: int, work: Workspace) -> Any:
    """Where the unit's sparse labels lie, as int64, once read."""
    if p.labels.mover != 0:
        return work.indices
    return start_of(p, p.labels, o, u)


@inlined
def labels_of(p: Any, o: int, u: int, count: int, work: Workspace) -> Any:
    """Where the unit's sparse labels lie, as int64; they are read there, if they are of another kind."""
    if p.labels.mover != 0:
        read_indices(p.labels, start_of(p, p.labels, o, u), count, work.indices)
    return indices_of(p, o, u, work)


@inlined
def _label_of(p: Any, indices: Any, i: int) -> int:
    """The label of an example.

    It has been checked, but lies in memory that another thread may have changed since: even then it
    must lead to a class.
    """
    label = load(indices + i * size_of(_I64), _I64)
    return label if 0 <= label < p.classes else 0


@inlined
def leave_logits_at_labels(
    p: Any, o: int, u: int, count: int, indices: Any, panel: int, work: Workspace, zero: Any
) -> None:
    """Leave the logit of each example's label in the slot, for `logits_at_labels`.

    A register cannot be loaded before the numbers that have just been stored have left the
    processor's store buffer: there is something to be done between the two.
    """
    x = start_of(p, p.logits, o, u)
    step = p.logits.classes
    example = p.logits.example
    kind = first_lane(work.stored)
    slot = slot_of(work, SLOT, zero)
    store(slot, zero)
    if panel != 0:
        x = pointer(panel)
        step = p.pitch
        example = size_of(kind)
    if panel != 0 or p.logits.plain != 0 or is_half(work.stored):
        for i in range(count):
            place = x + (_label_of(p, indices, i) * step + i * example)
            store(slot + i * size_of(kind), load(place, kind))
    else:
        other = slot_of(work, OTHER, zero)
        for i in range(count):
            place = x + (_label_of(p, indices, i) * step + i * example)
            read_tile(p.logits, place, example, 1, 1, np.nan, other, zero)
            store(slot + i * size_of(kind), load(other, kind))


@inlined
def logits_at_labels(i: int, work: Workspace, zero: Any) -> Any:
    """The logits of the labels of examples from number `i` on, as float64 in the lanes."""
    stored = part_of(work.stored)
    place = slot_of(work, SLOT, zero) + i * size_of(first_lane(stored))
    return widen(widened(load(place, stored)))


@inlined
def _read_class(
    p: Any, t: Any, o: int, u: int, panel: int, i: int, j: int, count: int, buffer: Any, zero: Any
) -> Any:
    """What `count` examples of a unit have for class `j`, from number `i` on."""
    if panel != 0:
        at = pointer(panel) + (j * p.pitch + i * size_of(first_lane(zero)))
        return widen(load(at, zero))
    place = start_of(p, t, o, u) + (i * t.example + j * t.classes)
    return read_numbers(t, place, count, buffer, zero)


@inlined
def loss_class_by_class(
    p: Any,
    o: int,
    u: int,
    panels: tuple[int, int],
    i: int,
    count: int,
    row: Finished,
    buffer: Any,
    zero: Any,
) -> Any:
    """The loss as a plain sum of its terms, for labels whose sum is not finite.

    It is that of `count` examples from number `i` on; `panels` is where the logits and labels of
    the unit are in panels, or 0.
    """
    total = widen(zero)
    for j in range(p.classes):
        z = _read_class(p, p.logits, o, u, panels[0], i, j, count, buffer, zero)
        label = _read_class(p, p.labels, o, u, panels[1], i, j, count, buffer, zero)
        total = total + class_loss(smooth(label, p.keep_label, p.uniform), z, row)
    return total
