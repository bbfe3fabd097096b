"""What asv measures, and the gate.

:mod:`.registry` says what is measured; :mod:`.arrays` and :mod:`.calls` make it something to call.
The classes that asv finds are in :mod:`.steady` (the time of a warm call), :mod:`.startup` (imports
and first calls), :mod:`.memory` (the peak of a process) and :mod:`.figures` (numbers that do not
depend on how busy the machine is).

The revision that is measured is whichever numba_xent is installed: of it, only public names are
used, or else what it lacks makes a benchmark skipped. Nothing here imports it before a benchmark
is set up, because asv imports all of this to list it, and because a compiler that is imported
before a fork has one thread after it.
"""
