"""What a kernel is told: one record of numbers, so that a call costs little and takes one argument.

Addresses and strides are in bytes. A *unit* is what a kernel solves at once: at most as many
neighbouring examples as a register has lanes.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from .workspace import Plan


class Tensor(NamedTuple):
    """One operand or output as a kernel sees it; address 0 means that there is none.

    Attributes
    ----------
    address
        Of the element of the first example and class.
    outer, unit, example, classes
        Steps to the next outer index, unit, example and class.
    vector
        Step to the next register, which holds other classes.
    mover
        The address of the reader (operands) or writer (outputs), see :mod:`.memory`; 0 if it is
        not needed.
    plain
        1 if the numbers are stored as kernels compute with them (sparse labels: as int64).
    stream
        1 if an output is written past the caches: that of rows by way of the stage, see
        :mod:`.stream`, that of columns in whole lines.
    """

    address: int = 0
    outer: int = 0
    unit: int = 0
    example: int = 0
    classes: int = 0
    vector: int = 0
    mover: int = 0
    plain: int = 0
    stream: int = 0


class Shape(NamedTuple):
    """How the work is cut up.

    Attributes
    ----------
    rows
        1 if the lanes of a register are classes of one example, 0 if they are examples.
    classes, outer, inner
        The canonical shape.
    group, missing, units
        Examples in a unit, how many of them the first one of each outer index lacks, and units for
        each outer index.
    vectors
        Full registers for each example (rows), or for the unit (columns).
    tail
        Classes left over for a last, partly filled register (rows only).
    chunk, chunks
        Registers in a chunk, and how many chunks there are.
    piece, pieces
        Chunks in a piece, and how many pieces there are: they are solved apart, by any thread.
    most_units
        Units in a block, at most, see :mod:`.order`.
    panel, pitch
        Units in a panel (0: no panels are made), and bytes from one class to the next in it. It
        has the classes of one piece.
    panel_classes
        Classes in a panel, at most.
    side
        Bytes from one panel of an operand to the other, which is brought while the one is solved; 0
        if there is one panel.
    run
        Examples next to each other in memory, if panels are made of runs of them wherever the next
        one lies; `outer` is 1 then, and the outer steps of tensors with classes go from run to run.
        Else 0.
    bring_runs, leave_runs
        The addresses of what copies such panels, and their gradients, see :mod:`.runs`; or 0.
    turned
        1 if the classes of panels are next to each other where they come from.
    collected
        1 if the gradients of a panel are collected in the place of its logits, and written at once.
    keep
        1 if the exponentials of all chunks are kept until the gradient is written.
    waits
        1 if the gradients of rows that are written past the caches wait until the next unit is
        summed.
    raw
        1 if losses are stored unweighted and their weighted sum is returned.
    phase, phases
        What is done first, and after how many phases everything is done, see :mod:`.schedule`.
    span
        Units that all phases are over for, before others begin.
    saved
        Bytes of the state of a piece; 0 if units are in one.
    blocks
        How many blocks of losses are summed, see :mod:`.kernels`.
    results_size
        Bytes that tasks hand to each other and to the caller, a multiple of a register; without
        those of `saved`.
    """

    rows: int
    classes: int
    outer: int
    inner: int
    group: int
    missing: int
    units: int
    vectors: int
    tail: int
    chunk: int
    chunks: int
    piece: int
    pieces: int
    most_units: int
    panel: int
    pitch: int
    panel_classes: int
    side: int
    run: int
    bring_runs: int
    leave_runs: int
    turned: int
    collected: int
    keep: int
    waits: int
    raw: int
    phase: int
    phases: int
    span: int
    saved: int
    blocks: int
    results_size: int


class Run(NamedTuple):
    """What is known when a problem is solved.

    Attributes
    ----------
    now
        The phase that is being done.
    own
        The address of the record itself.
    begin, span_units
        The first unit that it is being done for, counted over all outer indices, and how many there
        are: those of a span.
    block
        Units that have one piece solved before they have the next one.
    scratch, results
        The addresses of the tasks' scratch memory, and of what they hand over.
    tasks
        How many there are; each takes its share of the work.
    """

    now: int = 0
    own: int = 0
    begin: int = 0
    span_units: int = 0
    block: int = 1
    scratch: int = 0
    results: int = 0
    tasks: int = 1


class Numbers(NamedTuple):
    """The real parameters.

    Label smoothing is ``label * keep_label + uniform``; `scale` multiplies every gradient.
    """

    keep_label: float = 1.0
    uniform: float = 0.0
    scale: float = 1.0


TENSORS = ("logits", "labels", "weights", "upstream", "loss", "losses", "d_logits", "d_labels")
"""The operands and outputs of a problem, in the order in which they are packed. ``losses`` is
``loss`` once more, to be read when losses are summed."""


def _integers(kind: Any) -> list[tuple[str, Any]]:
    return [(name, np.int64) for name in kind._fields]


DTYPE = np.dtype(
    [(name, np.dtype(_integers(Tensor))) for name in TENSORS]
    + _integers(Shape)
    + [("plan", np.dtype(_integers(Plan)))]
    + _integers(Run)
    + [(name, np.float64) for name in Numbers._fields]
)
_PACKER = struct.Struct(f"={DTYPE.itemsize // 8 - len(Numbers._fields)}q{len(Numbers._fields)}d")


def pack(tensors: tuple[Tensor, ...], shape: Shape, plan: Plan) -> bytes:
    """One record, without addresses, tasks and numbers."""
    integers = [value for tensor in tensors for value in tensor]
    return _PACKER.pack(*integers, *shape, *plan, *Run(), *Numbers())
