"""A task's scratch memory, and how it is divided."""

from __future__ import annotations

from typing import Any, NamedTuple

from .._math.cross_entropy import State
from .compile import inlined
from .intrinsics import pointer
from .lanes import FIELDS_SIZE
from .panel import NUMBERS_SIZE, Panels
from .stream import Stage
from .vector import PAGE, REGISTER

STAGE_SIZE = 16 << 10
"""Bytes that wait on the stage at least, before they are written: a third of an L1 cache."""

LABELS = 512
"""Sparse labels that are checked at a time; scratch memory has room for them."""

SAVED = len(State._fields)
"""Registers of float64 that the state of a unit or of a piece of it takes in memory."""

ROW = 5
"""Registers of float64 of what gradients need of a unit: the numbers of `Finished`, the scale of
its gradients, and the gradients of the labels' classes. Those of a unit in several pieces lie where
the state of its first piece was, behind its maximum, which columns need."""

_WIDE = 8  # bytes of a float64 or int64


class Plan(NamedTuple):
    """Where in a task's scratch memory everything begins, in bytes; see `Workspace`.

    Attributes
    ----------
    stage, logits, labels, output, exponentials, terms, distances, sums, state, row, maxima,
    examples, tops, factors, indices, known, waiting
        The parts of `Workspace`.
    numbers
        The numbers of the stage.
    panel_numbers, panel_logits, panel_labels
        The parts of the panels, see :mod:`.panel`.
    example, room
        The numbers of `Workspace` and of its stage.
    size
        Bytes from the memory of one task to that of the next, whole pages.
    """

    stage: int = 0
    logits: int = 0
    labels: int = 0
    output: int = 0
    exponentials: int = 0
    terms: int = 0
    distances: int = 0
    sums: int = 0
    state: int = 0
    row: int = 0
    maxima: int = 0
    examples: int = 0
    tops: int = 0
    factors: int = 0
    indices: int = 0
    known: int = 0
    waiting: int = 0
    numbers: int = 0
    panel_numbers: int = 0
    panel_logits: int = 0
    panel_labels: int = 0
    example: int = 0
    room: int = 0
    size: int = 0


def plan(
    register: int,
    lanes: int,
    vectors: int,
    chunk: int,
    copies: int,
    keep: bool,
    gradient: bool,
    panel: int,
    dense: bool,
) -> Plan:
    """Divide scratch memory.

    Parameters
    ----------
    register, lanes
        Bytes and lanes of a register, which may be several of the machine as one.
    vectors, chunk
        Registers of each example, and at most in a chunk.
    copies
        How many examples are side by side in a buffer.
    keep, gradient
        Whether the exponentials of all chunks are kept; whether a gradient is wanted at all.
    panel, dense
        Bytes of the panels of an operand, and whether there are panels of labels, too.
    """
    chunks = max(1, -(-vectors // chunk))
    example = (min(chunk, vectors) + 1) * register
    exponentials = stage = 0
    if gradient:
        exponentials = (vectors + 1) * register if chunks > 1 and keep else copies * example
        stage = max(STAGE_SIZE, copies * example) + 2 * register
    sizes = {
        "stage": stage,
        "logits": (2 * copies + 1) * example,
        "labels": copies * example,
        "output": example,
        "exponentials": exponentials,
        "terms": lanes * register,
        "distances": lanes * register if dense else 0,
        "sums": FIELDS_SIZE,
        "state": SAVED * lanes * _WIDE if chunks > 1 else 0,
        "row": ROW * lanes * _WIDE if gradient else 0,
        "maxima": lanes * register,
        "examples": 4 * register,
        "tops": chunks * lanes * _WIDE,
        "factors": (chunks if keep else 1) * register if gradient else 0,
        "indices": lanes * _WIDE,
        "known": REGISTER,
        "waiting": REGISTER,
        "numbers": REGISTER,
        "panel_numbers": NUMBERS_SIZE,
        "panel_logits": panel,
        "panel_labels": panel if dense else 0,
    }
    begin = 0
    offsets = {}
    for name, size in sizes.items():
        offsets[name] = begin
        begin += -(-size // REGISTER) * REGISTER
    # One page lies between: what a thread asks for ahead must not be what another one writes.
    pages = -(-max(begin, LABELS * _WIDE) // PAGE) + 1
    return Plan(**offsets, example=example, room=stage - register, size=pages * PAGE)


class Workspace(NamedTuple):
    """A task's scratch memory.

    Attributes
    ----------
    logits
        A chunk of each example of a unit, and its tail; the same for the next unit or chunk; and
        one more, for one that is read again.
    labels
        A chunk of each example of a unit, and its tail.
    output
        A chunk of one example, and its tail.
    exponentials
        Those of the whole unit, or of a chunk of one example, and the tails.
    terms, distances
        What is to be added to the sums of columns next, and how far those classes are from the
        maximum: as many registers as one has lanes.
    sums
        What is known of each example, before it is brought together.
    state
        The state of the chunks so far.
    row
        What gradients need to know, see :data:`ROW`.
    maxima
        The maximum in each lane of each example, of the chunk that comes next.
    known
        Where an int64 lies: the number of that chunk, counted over all units, or -1.
    waiting
        Where an int64 lies: 1 if the gradients of the unit before are still to be written, else 0.
    examples
        Four registers for numbers of the unit's examples, see :mod:`.examples`.
    indices
        The sparse labels of the unit's examples.
    tops
        What the exponentials of each chunk stand against, for each example.
    factors
        What makes the exponentials of each chunk probabilities, for each example.
    example
        Bytes from one example's chunk in the buffers to the next.
    stage
        Where outputs wait that are written past the caches.
    panels
        Where operands are copied to before they are needed.
    stored
        A register of zeros as those of logits, labels and gradients are where they lie, if they
        lie as they are loaded. Everything else is in the compute dtype.
    """

    logits: Any
    labels: Any
    output: Any
    exponentials: Any
    terms: Any
    distances: Any
    sums: Any
    state: Any
    row: Any
    maxima: Any
    known: Any
    waiting: Any
    examples: Any
    indices: Any
    tops: Any
    factors: Any
    example: int
    stage: Stage
    panels: Panels
    stored: Any


@inlined
def lay_out(p: Any, task: int, stored: Any) -> Workspace:
    """The scratch memory of a task."""
    w = p.plan
    start = pointer(p.scratch) + task * w.size
    return Workspace(
        start + w.logits,
        start + w.labels,
        start + w.output,
        start + w.exponentials,
        start + w.terms,
        start + w.distances,
        start + w.sums,
        start + w.state,
        start + w.row,
        start + w.maxima,
        start + w.known,
        start + w.waiting,
        start + w.examples,
        start + w.indices,
        start + w.tops,
        start + w.factors,
        w.example,
        Stage(start + w.numbers, start + w.stage, w.room),
        Panels(
            start + w.panel_numbers,
            start + w.panel_logits,
            start + w.panel_labels,
            task,
        ),
        stored,
    )
