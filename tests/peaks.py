"""The peak of memory during a call. The benchmarks use this as well."""

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any


def peak(call: Callable[[], Any]) -> int:
    """The most memory that a warm call holds at once, its result included.

    tracemalloc sees every NumPy array, and what Numba's compiled code allocates.
    """
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
