"""Kernels on a device: loaded once, launched without Numba's dispatcher.

Numba writes PTX, which is assembled for the very device and kept on disk; ``cuda.core`` loads and
launches it. Scratch memory belongs to a stream, on which everything that uses it is in order.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from cuda.core import Device, LaunchConfig, ObjectCode, Program, ProgramOptions, Stream, launch

from . import kernels, totals
from .cache import kept

_ALIGNMENT = 256
lock = threading.RLock()
"""Held while the kernels of one call are launched: they share the scratch memory of a stream."""


def why_no_driver() -> str:
    """Why there is no device; empty if there is one."""
    try:
        return "" if Device.get_all_devices() else "there is no GPU: connect one"
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no GPU to compute on
        return f"there is no CUDA driver ({error}): install NVIDIA's driver"


@functools.cache
def device(number: int) -> Any:
    """A device, made current for the first time."""
    found = Device(number)
    found.set_current()
    return found


@functools.cache
def processors(number: int) -> int:
    """How many multiprocessors a device has."""
    return int(device(number).properties.multiprocessor_count)


def _load(name: str, text: Callable[[tuple[int, int]], str], number: int) -> Any:
    capability = device(number).compute_capability
    arch = f"sm_{capability.major}{capability.minor}"

    code = text((capability.major, capability.minor))

    def assemble() -> bytes:
        return bytes(Program(code, "ptx", ProgramOptions(arch=arch)).compile("cubin").code)

    return ObjectCode.from_cubin(kept(f"{name}_{arch}.cubin", assemble)).get_kernel(name)


@functools.cache
def kernel(choice: kernels.Choice, number: int) -> Any:
    """A kernel over logits, on a device."""
    return _load(choice.name, functools.partial(kernels.ptx, choice), number)


@functools.cache
def sum_kernel(name: str, dtype: str, number: int) -> Any:
    """A kernel over losses, on a device."""
    return _load(
        kernels.sum_name(name, dtype), functools.partial(kernels.sum_ptx, name, dtype), number
    )


@functools.lru_cache(4096)
def _config(grid: tuple[int, int], threads: int) -> Any:
    return LaunchConfig(grid=(*grid, 1), block=(threads, 1, 1))


@functools.lru_cache(256)
def _stream(handle: int) -> Any:
    return Stream.from_handle(handle)


def run(
    loaded: Any, grid: tuple[int, int], threads: int, numbers: Sequence[Any], handle: int
) -> None:
    """Launch a kernel on a stream."""
    launch(_stream(handle), _config(grid, threads), loaded, *numbers)


def run_sum(name: str, dtype: str, blocks: int, task: Any, number: int, handle: int) -> None:
    """Launch a kernel over losses."""
    loaded = sum_kernel(name, dtype, number)
    run(loaded, (blocks, 1), totals.THREADS, task, handle)


_scratch: dict[tuple[int, int], Any] = {}


def scratch(sizes: Sequence[int], number: int, handle: int) -> list[int]:
    """Addresses of pieces of the scratch memory of a stream; the last call's are overwritten."""
    places, total = [], 0
    for size in sizes:
        places.append(total)
        total += -(-size // _ALIGNMENT) * _ALIGNMENT
    buffer = _scratch.get((number, handle))
    if buffer is None or buffer.size < total:
        stream = _stream(handle)
        if buffer is not None:
            buffer.close(stream)
        buffer = device(number).memory_resource.allocate(max(total, 1 << 16), stream=stream)
        _scratch[number, handle] = buffer
    start = int(buffer.handle)
    return [start + place for place in places]
