"""Losses that are given: weighted, reduced, and differentiated by themselves and by the weights.

The kernels over logits weight and reduce losses themselves; this is for the gradient by weights,
and for losses that came without logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays import FLOAT_NAMES, compute_dtype, dtype_name, is_float
from .._device import DeviceArray, contiguous_strides
from .._weighting import Reduction, Weighting
from . import arrays, driver, streams, totals
from .general import converted, multiply, sum_to_shape
from .operands import Outputs, as_factor, check_devices, check_upstream, wait_for
from .plan import NO_TENSOR
from .recipe import MODES, sums, total_of_partials
from .task import Tensor

_WIDE = np.dtype(np.float64)


def factor_of(weighting: Weighting) -> tuple[float, DeviceArray | None]:
    """The weights as :func:`.operands.as_factor` has them."""
    if weighting.number is not None:
        return weighting.number, None
    return as_factor(weighting.weights, "weights")


def known_divisor(weighting: Weighting, weights: DeviceArray | None) -> float | None:
    """What the sum is divided by, if the host knows it."""
    if weights is not None and weighting.reduction in MODES:
        return None
    return weighting.divisor


def run_sums(task: totals.Sum, dtype: str, number: int, handle: int) -> None:
    """Form a sum of losses."""
    for prepared in sums(task, dtype, number):
        prepared.launch(handle)


def gradient(
    losses: DeviceArray,
    weighting: Weighting,
    weights: DeviceArray | None,
    upstream: tuple[float, DeviceArray | None],
    sum_of: totals.Sum | None,
    out: DeviceArray,
    handle: int,
) -> None:
    """Write the gradient by the weights.

    Parameters
    ----------
    losses
        Unweighted losses.
    weighting, weights
        Their weighting, and the weights if they are on the GPU.
    upstream
        A number, and an array.
    sum_of
        The sum that made the value, with partial sums that are still there; None if the losses were
        not reduced.
    out
        Receives it.
    """
    up, array = upstream
    number = out.device
    terms = arrays.temporary(losses.shape, _WIDE, number, handle)
    if sum_of is None:
        multiply(terms, losses, array, scale=up, handle=handle)
    else:
        divisor = known_divisor(weighting, weights)
        room = arrays.temporary((2,), _WIDE, number, handle)
        mean_at = room.address if weighting.reduction == Reduction.MEAN else 0
        wanted = sum_of._replace(
            losses=0, weights=NO_TENSOR, upstream=0, value=mean_at, scale=room.address + 8
        )
        total_of_partials(wanted, "float64", number).launch(handle)
        if divisor == 0.0:
            multiply(terms, scale=0.0, handle=handle)
        else:
            multiply(
                terms, losses, array, scale=up, scale_at=room.address + 8, shift_at=mean_at,
                or_zero=True, handle=handle,
            )  # fmt: skip
    shape = weighting.weights.shape
    summed = sum_to_shape(terms, shape, handle)
    summed.shape = out.shape  # weights may have lost a last axis of length 1
    summed.strides = contiguous_strides(out.shape, summed.dtype.itemsize)
    multiply(out, summed, handle=handle)


class _Given:
    """Losses, and what is made of them."""

    def __init__(self, losses: Any, weighting: Weighting) -> None:
        if not isinstance(losses, DeviceArray):
            raise TypeError(
                f"losses must be a CUDA array as the weights are, got {type(losses).__name__}; "
                "arrays of the host and of a GPU cannot be mixed"
            )
        self.losses = losses
        self.weighting = weighting
        self.compute = np.dtype(compute_dtype(losses.dtype))
        self.narrow = self.compute != _WIDE
        self.weight, self.weights = factor_of(weighting)
        self.handle = streams.chosen() or losses.stream or streams.LEGACY

    def _raw(self) -> DeviceArray:
        """The losses in the compute dtype, contiguous."""
        losses = self.losses
        strides = contiguous_strides(losses.shape, losses.dtype.itemsize)
        if losses.dtype == self.compute and losses.strides == strides:
            return losses
        return converted(losses, losses.shape, self.compute, self.handle)

    def _factors(self) -> Tensor:
        """The weights as the kernels of sums take them: one for each loss."""
        if self.weights is None:
            return NO_TENSOR
        if self.weights.dtype == self.compute and self.weights.ndim == 0:
            return Tensor(self.weights.address, 0, 0, 0)
        size = self.compute.itemsize
        # It is kept until the launches are made.
        self._full = converted(self.weights, self.losses.shape, self.compute, self.handle)
        return Tensor(self._full.address, size, 0, 0)

    def solve(
        self, wrt: Sequence[str], upstream: Any, outs: Sequence[Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        losses, weighting, handle = self.losses, self.weighting, self.handle
        reduced = weighting.divisor is not None
        up, above = check_upstream(
            upstream, () if reduced else losses.shape, dtype_name(self.compute)
        )
        given = weighting.given
        likes: dict[str, Any] = {"losses": losses, "weights": given}
        outputs = Outputs(wrt, outs, {n: a for n, a in likes.items() if is_float(a)})
        read = [a for a in (losses, self.weights, above) if a is not None]
        check_devices([*read, *outputs.given])
        entered = driver.enter(losses.device)
        try:
            wait_for([*read, *outputs.given], handle)
            value, total, raw = self._value(reduced)
            # All is computed before an output is written that may be what is read.
            late = outputs.allocate(losses.device, handle, read)
            targets = outputs.places
            if "losses" in targets:
                self._losses_gradient(targets["losses"], (up, above), total)
            if "weights" in targets:
                gradient(
                    raw, weighting, self.weights, (up, above), total, targets["weights"], handle
                )
            for place, array in late:
                multiply(place, array, handle=handle)
            return value, outputs.results()
        finally:
            if entered:
                driver.leave()

    def _value(self, reduced: bool) -> tuple[Any, totals.Sum | None, DeviceArray]:
        """The value, the sum that made it, and the losses in the compute dtype."""
        losses, weighting, handle = self.losses, self.weighting, self.handle
        number, shape = losses.device, () if reduced else losses.shape
        value = arrays.empty(
            shape, contiguous_strides(shape, losses.dtype.itemsize), losses.dtype, number,
            handle,
        )  # fmt: skip
        raw = self._raw()
        if not reduced:
            multiply(
                value, losses, self.weights, scale=self.weight, narrow=self.narrow, handle=handle
            )
            return value.owner, None, raw
        divisor = known_divisor(weighting, self.weights)
        blocks = -(-losses.size // totals.EXAMPLES)
        self._partials = arrays.temporary((max(1, blocks), 3), _WIDE, number, handle)
        task = totals.Sum(
            raw.address, self._factors(), 0, losses.size, 1, self._partials.address, blocks,
            value.address, 0,
            totals.BY_SUM if divisor is not None else MODES[weighting.reduction],
            1.0 if divisor is None else divisor, self.weight,
        )  # fmt: skip
        if dtype_name(losses.dtype) in FLOAT_NAMES:
            run_sums(task, dtype_name(losses.dtype), number, handle)
        else:
            wide = arrays.temporary((), self.compute, number, handle)
            run_sums(task._replace(value=wide.address), dtype_name(self.compute), number, handle)
            multiply(value, wide, handle=handle)
        return value.owner, task, raw

    def _losses_gradient(
        self, out: DeviceArray, upstream: tuple[float, DeviceArray | None], total: Any
    ) -> None:
        up, above = upstream
        scale, scale_at = up * self.weight, 0
        if total is not None:
            room = arrays.temporary((1,), _WIDE, out.device, self.handle)
            scale_at = room.address
            wanted = total._replace(losses=0, upstream=0, value=0, scale=scale_at)
            total_of_partials(wanted, "float64", out.device).launch(self.handle)
        weights = self.weights
        if weights is not None and dtype_name(weights.dtype) != dtype_name(self.compute):
            weights = converted(weights, weights.shape, self.compute, self.handle)
        multiply(out, weights, above, scale=scale, scale_at=scale_at, handle=self.handle)


def weighted_loss(
    losses: Any, weighting: Weighting, wrt: Sequence[str], upstream: Any, outs: Sequence[Any]
) -> tuple[Any, tuple[Any, ...]]:
    """The value of ``compute_weighted_loss``, and its gradients, as Numba device arrays.

    Parameters
    ----------
    losses, weighting
        Checked operands, one of which is on a GPU.
    wrt, upstream, outs
        As :func:`numba_xent.value_and_grad` has them.

    Raises
    ------
    TypeError, ValueError
        As :func:`.backend.solve` does.
    """
    return _Given(losses, weighting).solve(wrt, upstream, outs)


def total(losses: Sequence[Any]) -> Any:
    """The sum of losses of one shape and dtype, some of them on a GPU, as a Numba device array.

    Raises
    ------
    TypeError
        If there are arrays of the host among them.
    ValueError
        If they are on several devices.
    """
    factors = [as_factor(loss, "losses") for loss in losses]
    found = [array for _, array in factors if array is not None]
    check_devices(found)
    first = found[0]
    number, shape, dtype = first.device, first.shape, first.dtype
    handle = streams.chosen() or first.stream or streams.LEGACY
    entered = driver.enter(number)
    try:
        wait_for(found, handle)
        stack = arrays.temporary((len(losses), *shape), _WIDE, number, handle)
        for i, (value, array) in enumerate(factors):
            at = stack.address + i * stack.strides[0]
            place = DeviceArray(None, at, shape, stack.strides[1:], _WIDE, number, handle)
            multiply(place, array, scale=value, handle=handle)
        strides = contiguous_strides(shape, dtype.itemsize)
        out = arrays.empty(shape, strides, dtype, number, handle)
        added = sum_to_shape(stack, (1, *shape), handle)
        added.shape, added.strides = shape, added.strides[1:]
        multiply(out, added, handle=handle)
        return out.owner
    finally:
        if entered:
            driver.leave()
