"""The order in which units and their pieces are solved.

Most units are solved at a stroke. Those in several pieces take three phases, each of which is over
for all pieces of a span before the next begins: a state of each piece, the losses, the gradients.

The pieces of a row follow each other, as they do in memory. Of columns, neighbouring units do: one
piece of all units of a *block* is solved before the next piece.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .compile import inlined

WHOLE, STATES, LOSSES, GRADIENTS = 0, 1, 2, 3
"""The phases; units in one piece have the first of them, others the rest."""


class Turn(NamedTuple):
    """What is solved at a time.

    Attributes
    ----------
    unit
        Counted over all outer indices.
    piece
        The number of the piece in it.
    following
        How many units, from this one on, have the same piece solved one after the other.
    """

    unit: int
    piece: int
    following: int


@inlined
def units_before(p: Any) -> int:
    """How many units come before those of the span."""
    before: int = p.begin // p.pieces
    return before


@inlined
def turn_of(p: Any, item: int) -> Turn:
    """What number `item` is, of all pieces of all units in the order in which they are solved."""
    if p.now == LOSSES:
        return Turn(item // p.pieces, item % p.pieces, 1)
    item -= p.begin
    block = item // (p.block * p.pieces)
    first = block * p.block
    item -= first * p.pieces
    units = min(p.block, (p.end - p.begin) // p.pieces - first)
    nth = item % units
    return Turn(units_before(p) + first + nth, item // units, units - nth)
