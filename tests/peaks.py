"""Peaks of memory during a call: as Python counts, and as the system does.

tracemalloc sees every NumPy array; what compiled code allocates for itself shows only in the
process, whose high-water mark Linux lets us reset. The benchmarks use this as well.
"""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

_RESET = Path("/proc/self/clear_refs")


def peak(call: Callable[[], Any]) -> int:
    """The most memory that a warm call holds at once, its result included."""
    call()
    gc.collect()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        result = call()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del result
    return most - before


def can_reset_high_water() -> bool:
    """Whether `resident_growth` works here: only Linux can reset the mark."""
    return _RESET.exists()


def high_water() -> int:
    """The largest resident size of this process since it was last reset, in bytes."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def resident_growth(call: Callable[[], Any]) -> int:
    """How far the resident size rises above its start during a warm call."""
    call()
    gc.collect()
    _RESET.write_text("5")
    before = high_water()
    result = call()
    growth = high_water() - before
    del result
    return growth
