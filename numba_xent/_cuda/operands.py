"""What comes from the caller besides logits and labels: factors, upstream gradients, outputs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .._arrays import as_array, in_dtype, real_numbers
from .._device import VIEWERS, DeviceArray, Layout, contiguous_strides, is_on_gpu
from .._layout import has_internal_overlap
from . import arrays, driver
from .general import merged


def only_cuda(value: Any, name: str) -> DeviceArray:
    """The value, if it is on a GPU.

    Raises
    ------
    TypeError
        If it is not.
    """
    if isinstance(value, DeviceArray):
        return value
    raise TypeError(
        f"{name} must be a CUDA array as the other arguments are, got {type(value).__name__}; "
        "arrays of the host and of a GPU cannot be mixed"
    )


def as_factor(value: Any, name: str) -> tuple[float, DeviceArray | None]:
    """A factor as a number, if the host knows it, and as a device array, if it does not."""
    if value is None:
        return 1.0, None
    if isinstance(value, DeviceArray):
        return 1.0, value
    if value.ndim:
        only_cuda(value, name)
    return float(value), None


def check_upstream(
    upstream: Any, shape: tuple[int, ...], compute: str
) -> tuple[float, DeviceArray | None]:
    """The upstream gradient as :func:`as_factor` has it.

    Raises
    ------
    ValueError
        If it does not have the shape of the value.
    TypeError
        If it is not numeric, or is an array of the host.
    """
    if upstream is None:
        return 1.0, None
    floats = np.float64 if compute == "float64" else np.float32
    array = real_numbers(as_array(upstream, "upstream", floats), "upstream")
    if array.shape != shape:
        raise ValueError(
            f"upstream must have the shape of the value, {shape}, got shape {array.shape}"
        )
    return as_factor(
        array if isinstance(array, DeviceArray) else in_dtype(array, compute), "upstream"
    )


def check_devices(found: Sequence[DeviceArray]) -> None:
    """Check that arrays are on one device.

    Raises
    ------
    ValueError
        If they are not.
    """
    if not driver.several_devices():
        return
    first = found[0].device
    for array in found:
        if array.device != first:
            raise ValueError(
                f"all CUDA arrays must be on one device, got {first} and {array.device}"
            )


def wait_for(found: Iterable[DeviceArray], handle: int) -> None:
    """Have a stream wait for the arrays' own, where those are others."""
    for array in found:
        stream = array.stream
        if stream and stream != handle:
            driver.wait(handle, stream)


def overlap(a: DeviceArray, b: DeviceArray) -> bool:
    """Whether two arrays may share memory."""
    first, second = a.known or a.layout, b.known or b.layout
    if a.address + first.low >= b.address + second.high:
        return False
    if b.address + second.low >= a.address + first.high:
        return False
    return first.low != first.high and second.low != second.high


@functools.lru_cache(4096)
def _flaw_of_place(layout: Layout, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """Why an array cannot receive a gradient, but for its kind: what is wrong, or nothing."""
    if layout.dtype != dtype:
        return f"must have dtype {dtype}, got {layout.dtype}"
    if layout.shape != shape:
        return f"must have shape {shape}, got {layout.shape}"
    if has_internal_overlap(shape, layout.strides, dtype.itemsize):
        return "must not have elements that share memory"
    return ""


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], position: str) -> DeviceArray:
    """Check an array that is to receive a gradient; `position` is its place in a tuple.

    Raises
    ------
    TypeError
        If it is not a CUDA array of the gradient's dtype.
    ValueError
        If it has another shape, cannot be written, or has elements that share memory.
    """
    found = out
    if type(out) is not DeviceArray:
        viewer = VIEWERS.get(type(out))
        if viewer is None and not is_on_gpu(out):
            raise TypeError(f"out{position} must be a CUDA array, got {type(out).__name__}")
        found = (viewer or arrays.view)(out, f"out{position}")
    flaw = _flaw_of_place(found.known or found.layout, shape, dtype)
    if flaw:
        raise (TypeError if found.dtype != dtype else ValueError)(f"out{position} {flaw}")
    if found.readonly:
        raise ValueError(f"out{position} must be writeable, got a read-only array")
    return found


def same_place(a: DeviceArray, b: DeviceArray) -> bool:
    """Whether two arrays are the same elements in the same order."""
    return a.address == b.address and a.strides == b.strides and a.dtype == b.dtype


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.isnative else dtype.newbyteorder("=")


class Outputs:
    """Where gradients go.

    Parameters
    ----------
    wrt, outs
        The arguments to differentiate by, and an array or None for each.
    likes
        The operands that have a gradient, by their names.

    Attributes
    ----------
    given
        The arrays that the caller gave.
    places
        The memory that gradients are written to, by the names of their operands.

    Raises
    ------
    TypeError, ValueError
        As :func:`check_out` does, if there is no gradient to receive, or if outputs share memory.
    """

    __slots__ = ("_likes", "_outs", "_wrt", "given", "places")

    def __init__(self, wrt: Sequence[str], outs: Sequence[Any], likes: Mapping[str, Any]) -> None:
        self._wrt, self._outs, self._likes = wrt, outs, likes
        self.given: list[DeviceArray] = []
        self.places: dict[str, DeviceArray] = {}
        for i, out in enumerate(outs):
            if out is None:
                continue
            name, position = wrt[i], "" if len(wrt) == 1 else f"[{i}]"
            if name not in likes:
                raise ValueError(
                    f"out{position} must be None: there is no gradient by integer {name}"
                )
            like = likes[name]
            found = check_out(out, like.shape, _native(like.dtype), position)
            for other in self.given:
                if overlap(found, other):
                    raise ValueError("out: the arrays must not share memory with one another")
            self.given.append(found)
            self.places[name] = found

    def allocate(
        self,
        number: int,
        handle: int,
        read: Sequence[DeviceArray],
        in_place: DeviceArray | None = None,
    ) -> list[tuple[DeviceArray, DeviceArray]]:
        """Find a place for each gradient: what was given, unless that overlaps what is read.

        What is the very place of `in_place` may overlap that. Returns what is to be copied when all
        is done: to where, and from where.

        Raises
        ------
        TooUnevenError
            If it could not be copied.
        """
        late = []
        for name in self._wrt:
            if name not in self._likes:
                continue
            found = self.places.get(name)
            if found is None:
                like = self._likes[name]
                dtype, shape = _native(like.dtype), like.shape
                strides = arrays.strides_like(shape, like.strides, dtype.itemsize)
                self.places[name] = arrays.empty(shape, strides, dtype, number, handle)
                continue
            for other in read:
                if overlap(found, other) and not (other is in_place and same_place(found, other)):
                    self.places[name] = aside(found, handle)
                    late.append((found, self.places[name]))
                    break
        return late

    def results(self) -> tuple[Any, ...]:
        """What the caller gets for each argument."""
        places = self.places
        return tuple(
            [
                out if out is not None else places[name].owner if name in places else None
                for name, out in zip(self._wrt, self._outs, strict=True)
            ]
        )


def aside(array: DeviceArray, handle: int) -> DeviceArray:
    """Contiguous memory for what is to be copied to an array.

    Raises
    ------
    TooUnevenError
        If it could not be copied.
    """
    merged(array.shape, (array.strides, contiguous_strides(array.shape, array.dtype.itemsize)))
    return arrays.temporary(array.shape, array.dtype, array.device, handle)
