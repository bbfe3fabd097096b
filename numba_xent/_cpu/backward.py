"""The backward pass: the gradients of a unit, from its exponentials."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._math.constants import constants
from .._math.cross_entropy import Finished
from .._math.exponential import exp
from .._math.primitives import where, widen
from .chunk import (
    Waiting,
    exp_of_chunk,
    gradient_of_chunk,
    label_gradient_of_chunk,
    scale_chunk,
)
from .compile import inlined
from .examples import AT_LABEL, OTHER, SCALE, SLOT, indices_of, of_example, slot_of
from .intrinsics import (
    address_of,
    any_lane,
    first_lane,
    lanes_of,
    load,
    pointer,
    size_of,
    spread,
    store,
)
from .stream import stage_for
from .tile import Chunk, Tile, buffer_tile, put, put_class, put_lines, tile_of
from .unit import (
    fetch_chunk,
    gradient_panel,
    kept_chunk,
    labels_panel,
    lane_step,
    logits_buffer,
    logits_panel,
    number_of_chunk,
    operand,
    panel_tile,
    passes,
    place_of,
)
from .workspace import Workspace

_F64, _I64 = np.float64(0), np.int64(0)


@inlined
def write_gradients(
    p: Any,
    o: int,
    u: int,
    c: int,
    chunk: Chunk,
    count: int,
    row: Finished,
    indices: Any,
    work: Workspace,
    zero: Any,
    dense: Any,
    rows: Any,
) -> None:
    """Write the gradients of one chunk of a unit, once prepared."""
    to = place_of(p, p.d_logits, o, u, 0, chunk)
    if rows is not None and p.d_logits.stream != 0:
        to = _on_stage(p.d_logits, p, to, chunk, count, work)
    for r in range(passes(count, rows)):
        e = kept_chunk(p, r, chunk, work, zero)
        scale = of_example(rows, slot_of(work, SCALE, zero), r, zero)
        if p.d_labels.address != 0:
            _write_by_labels(p, o, u, r, chunk, row, scale, work, zero, rows)
        if p.d_logits.address != 0:
            place = to + r * p.d_logits.example
            factor = of_example(rows, _factors(p, c, work, zero), r, zero)
            _write_by_logits(
                p, o, u, r, chunk, count, place, e, factor, scale, indices, work, zero, dense, rows
            )


@inlined
def _factors(p: Any, c: int, work: Workspace, zero: Any) -> Any:
    """Where the factors of a chunk are: the same for all, if exponentials are not kept."""
    return work.factors + (c if p.keep != 0 else 0) * size_of(zero)


@inlined
def prepare_gradients(
    p: Any,
    o: int,
    u: int,
    c: int,
    chunk: Chunk,
    count: int,
    row: Finished,
    work: Workspace,
    zero: Any,
    rows: Any,
) -> None:
    """Compute the exponentials of a chunk if they were not kept, and what makes them probabilities.

    Those of rows then stand against the maximum of all classes, those of columns against that of
    their chunk: the same bits, kept or not.
    """
    stood = row.top
    if p.chunks > 1 and (p.keep != 0 or rows is None):
        stood = load(work.tops + c * lanes_of(zero) * size_of(_F64), row.top)
    if p.keep == 0:
        _compute_again(p, o, u, chunk, stood, count, work, zero, rows)
    factor = row.inverse * widen(constants(zero).scale_down)
    rescale = False
    if p.chunks > 1 and (p.keep != 0 or rows is None):
        # Exponentials stand against a smaller maximum, perhaps. Far below the row's, the factor
        # between them would be subnormal: then a part of it goes to the exponentials first.
        factor = factor * exp(stood - row.top)
        down = widen(constants(zero).scale_down * constants(zero).scale_down)
        tiny = factor < down
        rescale = any_lane(tiny)
        store(slot_of(work, OTHER, zero), spread(where(tiny, down, 1.0), zero))
        factor = where(tiny, factor / down, factor)
    store(_factors(p, c, work, zero), spread(factor, zero))
    if rescale:
        for r in range(passes(count, rows)):
            other = of_example(rows, slot_of(work, OTHER, zero), r, zero)
            scale_chunk(kept_chunk(p, r, chunk, work, zero), chunk.tail, other, zero)


@inlined
def waiting_chunk(
    p: Any, o: int, u: int, r: int, chunk: Chunk, c: int, work: Workspace, zero: Any, dense: Any
) -> Waiting:
    """The chunk of the unit before whose gradients are written while one of this unit is summed."""
    there = load(work.waiting, _I64) != 0
    u -= 1
    if u < 0:
        o -= 1
        u = p.units - 1
    labels = None
    label = 0
    if dense is not None:
        labels = operand(p, p.labels, o, u, r, chunk, work.labels, 0, work.stored, True)
    elif there:
        label = load(indices_of(p, o, u, work) + r * size_of(_I64), _I64)
        label -= chunk.first * lanes_of(zero)
    return Waiting(
        there,
        kept_chunk(p, r, chunk, work, zero),
        labels,
        address_of(place_of(p, p.d_logits, o, u, r, chunk)),
        of_example(True, _factors(p, c, work, zero), r, zero),
        of_example(True, slot_of(work, SCALE, zero), r, zero),
        label,
        slot_of(work, AT_LABEL, zero) + r * size_of(first_lane(work.stored)),
        work.stored,
    )


@inlined
def _write_by_logits(
    p: Any,
    o: int,
    u: int,
    r: int,
    chunk: Chunk,
    count: int,
    place: Any,
    e: Tile,
    factor: Any,
    scale: Any,
    indices: Any,
    work: Workspace,
    zero: Any,
    dense: Any,
    rows: Any,
) -> None:
    """Write the gradient by the logits of one pass over a chunk to its place, or to its panel."""
    labels = None
    if dense is not None:
        buffer = work.labels + r * work.example
        panel = labels_panel(work, rows)
        if p.chunks > 1:
            fetch_chunk(p, p.labels, o, u, r, chunk, 0.0, buffer, panel, work.stored, rows)
        labels = operand(p, p.labels, o, u, r, chunk, buffer, panel, work.stored, rows)
    lane = lane_step(p.d_logits, rows)
    panel = gradient_panel(p, work, rows)
    lines = (
        rows is None
        and p.collected == 0
        and p.d_logits.stream != 0
        and chunk.lanes == lanes_of(zero)
    )
    if panel != 0:
        out = panel_tile(p, pointer(panel), chunk, work.stored)
    elif lines:
        out = buffer_tile(chunk, work.output, work.stored)
    else:
        out = tile_of(p.d_logits, place, chunk, lane, 0, work.output, work.stored)
    gradient_of_chunk(p, e, labels, out, chunk.tail, factor, scale, zero)
    if dense is None:
        slot = slot_of(work, AT_LABEL, zero)
        _put_at_labels(r, count, chunk, indices, out, slot, rows)
    if panel == 0 and lines:
        put_lines(p.d_logits, place, chunk, work.output, zero)
    elif panel == 0:
        put(p.d_logits, place, chunk, lane, work.output, work.stored)


@inlined
def _logits_again(
    p: Any, o: int, u: int, r: int, chunk: Chunk, work: Workspace, zero: Any, rows: Any
) -> Tile:
    """The logits of one pass over a chunk once more."""
    buffer = work.logits
    panel = logits_panel(work, rows)
    if rows is not None:
        buffer = work.logits + 2 * p.group * work.example
        if p.chunks == 1:
            buffer = logits_buffer(p, number_of_chunk(p, o, u, 0), r, work)
    if p.chunks > 1:
        fetch_chunk(p, p.logits, o, u, r, chunk, 0.0, buffer, panel, work.stored, rows)
    return operand(p, p.logits, o, u, r, chunk, buffer, panel, work.stored, rows)


@inlined
def _compute_again(
    p: Any,
    o: int,
    u: int,
    chunk: Chunk,
    top: Any,
    count: int,
    work: Workspace,
    zero: Any,
    rows: Any,
) -> None:
    """Compute the exponentials of a chunk against a maximum, as they have not been kept."""
    slot = slot_of(work, SLOT, zero)
    store(slot, spread(top, zero))
    for r in range(passes(count, rows)):
        x = _logits_again(p, o, u, r, chunk, work, zero, rows)
        e = kept_chunk(p, r, chunk, work, zero)
        exp_of_chunk(x, e, chunk.tail, of_example(rows, slot, r, zero), zero)


@inlined
def _write_by_labels(
    p: Any,
    o: int,
    u: int,
    r: int,
    chunk: Chunk,
    row: Finished,
    scale: Any,
    work: Workspace,
    zero: Any,
    rows: Any,
) -> None:
    """Write the gradient by the labels of one pass over a chunk to its place."""
    slot = slot_of(work, SLOT, zero)
    x = _logits_again(p, o, u, r, chunk, work, zero, rows)
    store(slot, spread(row.top, zero))
    top = of_example(rows, slot, r, zero)
    store(slot, spread(row.log_sum, zero))
    log_sum = of_example(rows, slot, r, zero)
    place = place_of(p, p.d_labels, o, u, r, chunk)
    lane = lane_step(p.d_labels, rows)
    out = tile_of(p.d_labels, place, chunk, lane, 0, work.output, work.stored)
    label_gradient_of_chunk(x, out, chunk.tail, top, log_sum, scale, zero)
    put(p.d_labels, place, chunk, lane, work.output, work.stored)


@inlined
def _on_stage(t: Any, p: Any, place: Any, chunk: Chunk, count: int, work: Workspace) -> Any:
    """Where on the stage to put a chunk of the unit's outputs."""
    size = count * t.example
    if p.chunks > 1:
        size = chunk.full * t.vector + chunk.tail * t.classes
    return stage_for(work.stage, place, size)


@inlined
def _put_at_labels(
    r: int, count: int, chunk: Chunk, indices: Any, out: Tile, values: Any, rows: Any
) -> None:
    """Put the gradients of the labels' classes over what all classes got."""
    kind = first_lane(out.stored)
    number = size_of(kind)
    if rows is None:
        for i in range(count):
            v = load(indices + i * size_of(_I64), _I64) - chunk.first
            if 0 <= v < chunk.full:
                value = load(values + i * number, kind)
                store(out.address + v * out.step + i * number, value)
    else:
        j = load(indices + r * size_of(_I64), _I64) - chunk.first * lanes_of(out.stored)
        put_class(out, chunk.tail, j, values + r * number)
