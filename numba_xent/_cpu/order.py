"""The order in which units and their pieces are solved.

Most units are solved at a stroke. Those in several pieces take three phases, each of which is over
for all pieces of a span before the next begins: a state of each piece, the losses, the gradients.

The pieces of a row follow each other, as they do in memory. Of columns, neighbouring units do: one
piece of all units of a *block* is solved before the next piece.
"""

from __future__ import annotations

from typing import Any

from .compile import inlined

WHOLE, STATES, LOSSES, GRADIENTS = 0, 1, 2, 3
"""The phases; units in one piece have the first of them, others the rest."""


@inlined
def turn_of(p: Any, item: int) -> tuple[int, int, int]:
    """What is number `item` of all pieces of all units, in the order in which they are solved.

    Its unit, counted over all outer indices; its piece; and how many units, from that one on, have
    the same piece solved one after the other.
    """
    if p.pieces == 1:  # the same, without divisions
        return item, 0, p.begin + p.span_units - item
    item -= p.begin * p.pieces
    first = item // (p.block * p.pieces) * p.block
    item -= first * p.pieces
    units = max(1, min(p.block, p.span_units - first))  # nothing is left behind the last item
    nth = item % units
    return p.begin + first + nth, item // units, units - nth
