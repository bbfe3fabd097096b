"""Kernels on a device: loaded once, launched without Numba's dispatcher.

Numba writes PTX, which is assembled for the very device and kept on disk. ``cuda.core`` loads it,
and memory comes from its pool, in the order of a stream: neither waits for the GPU.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from cuda.bindings import driver as api
from cuda.core import Device, ObjectCode, Program, ProgramOptions, Stream
from numba import cuda

from . import kernels
from .cache import kept

_CLUSTERS_SINCE = 9
lock = threading.RLock()
"""Held while the arguments of prepared launches are written and used."""


class Slot:
    """An argument that is known at each call: its place among those that are."""

    def __init__(self, index: int) -> None:
        self.index = index


def why_no_driver() -> str:
    """Why there is no device; empty if there is one."""
    try:
        return "" if Device.get_all_devices() else "there is no GPU: connect one"
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no GPU to compute on
        return f"there is no CUDA driver ({error}): install NVIDIA's driver"


# ---- devices --------------------------------------------------------------------------------


@functools.cache
def several_devices() -> bool:
    """Whether there is more than one device to tell apart."""
    return len(Device.get_all_devices()) > 1


def _check(results: Any, what: str) -> Any:
    """What a function of the driver returns, but for its status.

    Raises
    ------
    RuntimeError
        If the driver refuses.
    """
    status = results[0]
    if status:
        raise RuntimeError(f"CUDA cannot {what}: {api.CUresult(status).name}")
    return results[1] if len(results) == 2 else None


@functools.cache
def numba_context(number: int) -> Any:
    """A device's primary context, as Numba has it."""
    return cuda.gpus[number].get_primary_context()


@functools.cache
def _primary(number: int) -> tuple[Any, int]:
    """The primary context of a device, and its address."""
    handle = _check(api.cuDevicePrimaryCtxRetain(number), f"use device {number}")
    return handle, int(handle)


@functools.cache
def device(number: int) -> Any:
    """A device, whose context is current."""
    found = Device(number)
    found.set_current()
    return found


def enter(number: int) -> bool:
    """Make a device current for this thread; tell whether :func:`leave` is to undo it."""
    context, wanted = _primary(number)
    if int(api.cuCtxGetCurrent()[1]) == wanted:
        return False
    _check(api.cuCtxPushCurrent(context), f"use device {number}")
    return True


def leave() -> None:
    """Make current what was before :func:`enter`."""
    api.cuCtxPopCurrent()


@functools.cache
def processors(number: int) -> int:
    """How many multiprocessors a device has."""
    return int(device(number).properties.multiprocessor_count)


@functools.cache
def has_clusters(number: int) -> bool:
    """Whether blocks of a device may read each other's shared memory."""
    return bool(device(number).compute_capability.major >= _CLUSTERS_SINCE)


# ---- streams and memory ---------------------------------------------------------------------


@functools.lru_cache(256)
def stream(handle: int) -> Any:
    """A stream by its address."""
    return Stream.from_handle(handle)


def wait(handle: int, other: int) -> None:
    """Have a stream wait for what another has been given so far; the host does not wait."""
    stream(handle).wait(stream(other))


def allocate(size: int, number: int, handle: int) -> Any:
    """Memory of a device, for work on a stream; it is freed in the order of that stream.

    Raises
    ------
    MemoryError
        If there is not enough.
    RuntimeError
        If the driver refuses for another reason.
    """
    try:
        return device(number).memory_resource.allocate(size or 1, stream=stream(handle))
    except Exception as error:  # noqa: BLE001 - it is told apart by its text
        if "OUT_OF_MEMORY" in str(error):
            raise MemoryError(f"GPU {number} has no {size} bytes left") from None
        raise RuntimeError(f"GPU {number} gives no memory: {error}") from None


# ---- kernels --------------------------------------------------------------------------------


def load(name: str, text: Callable[[tuple[int, int]], str], number: int) -> Any:
    """A kernel by its name and what writes its PTX for a compute capability."""
    capability = device(number).compute_capability
    arch = f"sm_{capability.major}{capability.minor}"

    code = text((capability.major, capability.minor))

    def assemble() -> bytes:
        return bytes(Program(code, "ptx", ProgramOptions(arch=arch)).compile("cubin").code)

    return ObjectCode.from_cubin(kept(f"{name}_{arch}.cubin", assemble)).get_kernel(name)


@functools.cache
def kernel(choice: kernels.Choice, number: int) -> Any:
    """A kernel over logits, on a device."""
    return load(choice.name, functools.partial(kernels.ptx, choice), number)


@functools.cache
def sum_kernel(name: str, dtype: str, number: int) -> Any:
    """A kernel over losses, on a device."""
    return load(
        kernels.sum_name(name, dtype), functools.partial(kernels.sum_ptx, name, dtype), number
    )


class Prepared:
    """A kernel with its arguments, some of which are :class:`Slot` in memory that others share.

    Parameters
    ----------
    loaded
        The kernel.
    grid, threads
        Blocks along x and y, and threads of a block.
    numbers
        The arguments in their order: integers and floats of 8 bytes, or slots.
    slots
        The address of the first slot.
    cluster
        How many blocks along x make a cluster.
    """

    def __init__(
        self, loaded: Any, grid: tuple[int, int], threads: int, numbers: Sequence[Any],
        slots: int = 0, cluster: int = 1,
    ) -> None:  # fmt: skip
        self._loaded = loaded
        self._function = api.CUfunction(int(loaded.handle))
        self._config = config = api.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        if cluster > 1:
            attribute = api.CUlaunchAttribute()
            attribute.id = api.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            size = attribute.value.clusterDim
            size.x, size.y, size.z = cluster, 1, 1
            config.attrs, config.numAttrs = [attribute], 1
        self._stream = -1
        self._numbers = np.zeros(len(numbers), np.int64)
        floats = self._numbers.view(np.float64)
        places = self._numbers.ctypes.data + 8 * np.arange(len(numbers), dtype=np.int64)
        for i, number in enumerate(numbers):
            if isinstance(number, Slot):
                places[i] = slots + 8 * number.index
            else:
                (floats if isinstance(number, float) else self._numbers)[i] = number
        self._places = places
        self._arguments = places.ctypes.data

    def launch(self, handle: int) -> None:
        """Launch it on a stream.

        Raises
        ------
        RuntimeError
            If the driver refuses.
        """
        if handle != self._stream:
            self._config.hStream = api.CUstream(handle)
            self._stream = handle
        status = api.cuLaunchKernelEx(self._config, self._function, self._arguments, 0)[0]
        if status:
            _check((status,), "launch a kernel")
