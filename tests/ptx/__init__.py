"""Executes PTX on the CPU, and reports what a GPU would not: an interpreter for tests.

``program`` parses the text of a kernel, ``memory`` is what it reads and writes, ``arithmetic`` is
what single instructions compute, and ``machine`` runs a grid of threads.

All threads of a launch advance together: of those that can run, the ones at the smallest program
counter execute one instruction, as NumPy operations over all of them. Warps that diverge meet again
at the next common instruction, so one legal schedule is run, not all of them. What another
schedule would change is found by other means: shadow memory knows who touched each byte since the
last barrier and reports conflicting accesses that nothing orders.

Reported as :class:`Fault`: accesses outside of buffers (there are wide gaps between them), beyond
alignment or to read-only memory; reads of what nobody has written; races in shared and in global
memory; barriers that only some threads of a block reach; shuffles whose mask names lanes that do
not take part; and threads that make no progress.

What it cannot show: ``ptxas`` and the hardware are trusted to do what PTX says; ``ex2``, ``rcp``
and ``lg2`` are exact unless told otherwise; nothing is said about time.
"""

from .machine import launch
from .memory import Counts, Fault, Memory
from .program import Program, parse

__all__ = ["Counts", "Fault", "Memory", "Program", "launch", "parse"]
