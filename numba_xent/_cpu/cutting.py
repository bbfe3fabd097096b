"""How a problem is cut: the classes into chunks and pieces, units into panels, spans and blocks.

Where the classes of columns are far apart, memory is fast with long runs of neighbouring examples.
A unit is solved at a stroke, from a panel with all of its classes, as long as such panels are wide
enough. Otherwise its classes are cut into pieces, each of which has panels of its own. An example
comes to the same bits either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .memory import LINE

CHUNK = 256
"""Registers in a chunk: 16 KiB, a third of an L1 cache."""

STREAMED = 1 << 22
"""Bytes from which on a gradient is written past the caches, and operands are brought in panels."""

KEPT = 512 << 10
"""Bytes of exponentials that a task keeps. Longer units are cut into pieces, which any thread may
take, and read their logits twice. Pieces of rows have that size, those of columns are chunks."""

PANELS = 640 << 10
"""Bytes of all panels of a task, at most."""

PANEL_UNITS = 32
"""Units in a panel, at most."""

LEAST_UNITS = {2: 16, 1: 2}
"""Units in a panel, at least, if there are two panels of an operand or one. Shorter runs of memory
take longer than it saves to bring one while the other is solved ([500, 65536] axis 0, 5 units, 1.3
times as long); with less than two units they take 1.6 times as long as with no panels at all."""

LEAST_UNITS_OF_VALUES = 5
"""Units in a panel with all classes, at least, if no gradient is wanted: pieces of values are read
once, too."""

BLOCK = 4
"""Panels of neighbouring units that have one piece solved before they have the next one."""

TURNED = 4 << 10
"""Bytes of one operand in a panel that is made by transposing. A call for each unit takes 1.2 to
1.4 times as long where there are four classes; with 8 KiB memory waits between panels (20 classes,
large, 1.1 to 1.3 times as long)."""

SHORT = 128
"""Examples in a run, at least, that make units of their own. Shorter ones are put side by side."""

LEAST_RUN = 24
"""Numbers of a run with all its classes, at least, if no gradient is wanted: movers are called for
each (10 classes of 2 examples take 1.2 to 1.4 times as long so, of 4 examples half as long)."""

RUNS = 16 << 10
"""Bytes of one operand in a panel that is made of short runs; 64 KiB take up to 1.1 times as long."""

MOST_RUNS = 128 << 10
"""The same at most, if more makes all panels end with a run: gradients by whole runs of all classes
are written past the caches."""

SPAN = 8 << 20
"""Bytes of units in several pieces that are gone through before others: their second reading, or the
states of their pieces, are found in the caches that processors share."""


class Lie(NamedTuple):
    """How a tensor with classes lies in memory.

    Attributes
    ----------
    dtype, itemsize, nbytes
        Its dtype, and the bytes of a number and of all of them.
    outer, example, classes
        The steps from one outer index, example and class to the next.
    """

    dtype: str
    itemsize: int
    nbytes: int
    outer: int
    example: int
    classes: int

    @property
    def is_turned(self) -> bool:
        """Whether classes are next to each other, and examples are not."""
        return self.classes == self.itemsize != self.example

    @property
    def has_runs(self) -> bool:
        """Whether examples are next to each other."""
        return self.example == self.itemsize

    @property
    def is_in_lines(self) -> bool:
        """Whether all classes begin at the same place in a cache line."""
        return self.outer % LINE == 0 and self.classes % LINE == 0


class Panels(NamedTuple):
    """The panels of columns, see :class:`.record.Shape`.

    Attributes
    ----------
    units
        Units in each, 0 if there are none.
    sides
        How many panels there are of each operand.
    turned, collected
        Whether they are made by transposing, and leave so, or as runs, as panels of gradients.
    """

    units: int = 0
    sides: int = 1
    turned: bool = False
    collected: bool = False


def _are_far(operands: Sequence[Lie]) -> bool:
    """Whether operands are large and have their examples next to each other."""
    return all(lie.has_runs for lie in operands) and (
        max(lie.nbytes for lie in operands) >= STREAMED
    )


def units_in(room: int, classes: int, register: int) -> int:
    """Units in a panel, if panels of so many bytes have so many classes in all."""
    return min(PANEL_UNITS, (room // classes - LINE) // register)


def chunks_in_piece(
    rows: bool,
    operands: Sequence[Lie],
    classes: int,
    chunks: int,
    register: int,
    room: int,
    gradient: bool,
) -> int:
    """How many chunks make a piece: all of them, if they need not be cut.

    There is `room` for panels if they are not.
    """
    most = KEPT // (CHUNK * register)
    if rows:
        return min(chunks, most)
    least = LEAST_UNITS[1] if gradient else LEAST_UNITS_OF_VALUES
    if chunks > most:
        return 1
    if _are_far(operands) and units_in(room, len(operands) * classes, register) < least:
        return 1
    return chunks


def panels_of(
    operands: Sequence[Lie],
    gradient: Lie | None,
    compute: str,
    classes: int,
    register: int,
    room: int,
) -> Panels:
    """How units of columns make panels of so many bytes in all.

    There are panels if all operands are to be transposed, or if they are large and have their
    examples next to each other; of the latter each has two, if there is room for enough units.

    Parameters
    ----------
    operands, gradient
        How they lie.
    compute, classes, register
        The compute dtype, the classes of a piece, and the bytes of a register.
    room
        How many bytes.
    """
    if all(lie.is_turned for lie in operands):
        collected = gradient is not None and gradient.is_turned
        return Panels(max(1, TURNED // (classes * register)), 1, True, collected)
    if _are_far(operands):
        for sides in (2, 1):
            units = units_in(room, sides * len(operands) * classes, register)
            if units >= LEAST_UNITS[sides]:
                # Whole lines are better written as they come.
                collected = gradient is not None and (
                    gradient.has_runs and gradient.dtype == compute and not gradient.is_in_lines
                )
                return Panels(units, sides, False, collected)
    return Panels()


def runs_pay(run: int, classes: int, gradient: bool) -> bool:
    """Whether runs of so many examples are better put side by side in panels."""
    return run < SHORT and (gradient or run * classes >= LEAST_RUN)


def panels_of_runs(run: int, group: int, classes: int, register: int, gradient: bool) -> Panels:
    """Panels made of runs of so many examples."""
    unit = classes * register
    whole = run // math.gcd(run, group)  # units after which a run ends with one
    units = RUNS // unit
    if whole * unit <= MOST_RUNS:
        units = max(1, units // whole) * whole
    return Panels(max(1, units), 1, True, gradient)


def span_and_block(unit: int, panels: Panels) -> tuple[int, int]:
    """How many units in several pieces make a span, and a block; each is of so many bytes.

    See :mod:`.order`.
    """
    block = max(1, BLOCK * panels.units)
    return max(block, SPAN // unit), block
