"""A problem on CUDA arrays in, losses and gradients out: all on one stream, nothing waits.

Checks that need no element of an array are made before any launch. What only the GPU knows is left
to it: the divisor of a reduction is computed there, and a label that is no class gives NaN. What
the kernels do not do themselves is done before and after them: operands are copied if they have
another dtype or uneven strides, and so are gradients whose place is needed or uneven.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import is_float
from .._device import DeviceArray, contiguous_strides
from . import arrays, driver, streams, totals, weights
from .general import converted, multiply, sum_to_shape
from .operands import (
    Outputs,
    aside,
    check_devices,
    check_out,
    check_upstream,
    only_cuda,
    wait_for,
)
from .plan import NO_TENSOR, OPERANDS
from .recipe import MODES, SLOTS, Recipe, recipe
from .weights import factor_of, known_divisor, total, weighted_loss

if TYPE_CHECKING:
    from .._problem import Problem

_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}

_VECTOR = 16
_BEHIND_VALUE = 1024
"""At most so many bytes of scratch lie behind the value and stay as long as it does, because to ask
for memory takes the host longer than to launch a kernel."""

with_last_axis = arrays.with_last_axis
__all__ = ["check_out", "solve", "total", "weighted_loss", "with_last_axis"]


class _Solution:
    """A problem whose arguments have been checked, and what is known of it on the way."""

    __slots__ = (
        "above", "arrays", "compute", "device", "handle", "labels", "logits", "outputs",
        "problem", "read", "reduced", "up", "weight", "weighting", "weights",
    )  # fmt: skip

    def __init__(
        self, problem: Problem, wrt: Sequence[str], upstream: Any, outs: Sequence[Any]
    ) -> None:
        self.problem = problem
        self.logits = logits = only_cuda(problem.logits, "logits")
        self.labels = only_cuda(problem.labels, "labels")
        self.weighting = weighting = problem.weighting
        self.reduced = reduced = problem.reduced
        self.weight, self.weights = 1.0, None
        likes: dict[str, Any] = {"logits": logits}
        if problem.label_gradient:
            likes["labels"] = self.labels
        if weighting is not None:
            self.weight, self.weights = factor_of(weighting)
            if "weights" in wrt and is_float(weighting.given):
                likes["weights"] = weighting.given
        self.up, self.above = 1.0, None
        if upstream is not None:
            shape = () if reduced else problem.batch_shape
            self.up, self.above = check_upstream(upstream, shape, problem.compute)
        self.outputs = Outputs(wrt, outs, likes)
        self.read = [logits, self.labels]
        if self.weights is not None:
            self.read.append(self.weights)
        if self.above is not None:
            self.read.append(self.above)
        self.arrays = [*self.read, *self.outputs.given]
        check_devices(self.arrays)
        self.device = logits.device
        self.handle = streams.chosen() or logits.stream or streams.LEGACY
        self.compute = _DTYPES[problem.compute]

    def solve(self) -> tuple[Any, tuple[Any, ...]]:
        """The value and the gradients."""
        entered = driver.enter(self.device)
        try:
            wait_for(self.arrays, self.handle)
            return self._solve()
        finally:
            if entered:
                driver.leave()

    def _solve(self) -> tuple[Any, tuple[Any, ...]]:
        problem, handle = self.problem, self.handle
        outputs = self.outputs
        late = outputs.allocate(self.device, handle, self.read, self.logits)
        places = outputs.places
        shape = () if self.reduced else problem.batch_shape
        dtype = self.logits.dtype
        strides = contiguous_strides(shape, dtype.itemsize)

        labels, d_labels = self.labels, places.get("labels")
        terms = None
        if d_labels is not None and labels.shape != self.logits.shape:
            labels = self._in_compute_dtype(labels)
            d_labels = terms = arrays.temporary(
                self.logits.shape, self.compute, self.device, handle
            )
        operands = [
            self.logits,
            labels,
            places.get("logits"),
            d_labels,
            None if self.weights is None else self._in_compute_dtype(self.weights),
            None if self.above is None else self._in_compute_dtype(self.above),
        ]
        raw = self.reduced or "weights" in places
        found = self._recipe(operands, raw)
        if found.copies:
            found = self._copied(found.copies, operands, raw, late)
        size = found.scratch[-1]
        behind = size if size <= _BEHIND_VALUE else 0
        loss, value = arrays.new(shape, strides, dtype, self.device, handle, behind)
        room = None if size == behind else driver.allocate(size, self.device, handle)
        start = value + arrays.aligned(loss.alloc_size) if room is None else int(room.handle)
        losses = start + found.scratch[1] if raw else value
        self._launch(found, operands, raw, losses, value, start)
        if terms is not None:
            multiply(places["labels"], sum_to_shape(terms, labels.shape, handle), handle=handle)
        if "weights" in places:
            each = DeviceArray(loss, value, shape, strides, dtype, self.device, handle)
            self._weights_gradient(found, losses, start, operands, each, places["weights"])
        for place, array in reversed(late):
            multiply(place, array, handle=handle)
        return loss, outputs.results()

    def _in_compute_dtype(self, array: DeviceArray) -> DeviceArray:
        if array.dtype == self.compute:
            return array
        return converted(array, array.shape, self.compute, self.handle)

    def _recipe(self, operands: Sequence[DeviceArray | None], raw: bool) -> Recipe:
        problem, weighting = self.problem, self.weighting
        logits, labels, d_logits, d_labels, weights, upstream = operands
        assert logits is not None
        assert labels is not None
        reduced = self.reduced
        reduction = divisor = None
        if reduced:
            assert weighting is not None
            reduction, divisor = weighting.reduction, known_divisor(weighting, self.weights)
        return recipe(
            self.device, problem.axis, problem.sparse, problem.smoothing != 0.0, reduction,
            divisor, raw, reduced and upstream is not None,
            logits.layout, logits.address % _VECTOR,
            labels.layout, None if problem.sparse else labels.address % _VECTOR,
            d_logits and d_logits.layout, d_logits and d_logits.address % _VECTOR,
            d_labels and d_labels.layout, d_labels and d_labels.address % _VECTOR,
            weights and weights.layout, None,
            None if reduced else upstream and upstream.layout, None,
        )  # fmt: skip

    def _copied(
        self,
        names: Sequence[str],
        operands: list[DeviceArray | None],
        raw: bool,
        late: list[tuple[DeviceArray, DeviceArray]],
    ) -> Recipe:
        """Replace operands by contiguous ones; note which outputs are to be copied then."""
        handle = self.handle
        places = {name: operands[OPERANDS.index(name)] for name in names}
        for name, array in places.items():
            if array is not None and name in ("d_logits", "d_labels"):
                place = operands[OPERANDS.index(name)] = aside(array, handle)
                late.append((array, place))
        for name, array in places.items():
            if array is None or name in ("d_logits", "d_labels"):
                continue
            dense = name == "logits" or (name == "labels" and not self.problem.sparse)
            shape = self.logits.shape if dense else self.problem.batch_shape
            operands[OPERANDS.index(name)] = converted(array, shape, array.dtype, handle)
        return self._recipe(operands, raw)

    def _launch(
        self,
        found: Recipe,
        operands: Sequence[DeviceArray | None],
        raw: bool,
        losses: int,
        value: int,
        start: int,
    ) -> None:
        problem, handle = self.problem, self.handle
        scale, smoothing, uniform = self.up * self.weight, problem.smoothing, 0.0
        if found.divisor is not None:
            scale = scale / found.divisor if found.divisor != 0.0 else 0.0
        if smoothing:
            uniform = smoothing / max(1, problem.classes)
        logits, labels, d_logits, d_labels, weights, upstream = [
            0 if a is None else a.address for a in operands
        ]
        states, _, partials, scale_at, _ = found.scratch
        if found.empty:
            self._no_losses(losses, raw)
        with driver.lock:
            SLOTS.pack_into(
                found.memory, 0, logits, labels, d_logits, d_labels, weights, upstream, losses,
                start + states, start + scale_at, value, start + partials,
                1.0 - smoothing, uniform, scale, self.weight,
            )  # fmt: skip
            for prepared in found.launches:
                prepared.launch(handle)

    def _no_losses(self, losses: int, raw: bool) -> None:
        """Without classes every loss is 0."""
        shape = self.problem.batch_shape
        dtype = self.compute if raw else self.logits.dtype
        strides = contiguous_strides(shape, dtype.itemsize)
        place = DeviceArray(None, losses, shape, strides, dtype, self.device, self.handle)
        multiply(place, None if raw else self.weights, scale=0.0, handle=self.handle)

    def _weights_gradient(
        self,
        found: Recipe,
        losses: int,
        start: int,
        operands: Sequence[DeviceArray | None],
        value: DeviceArray,
        out: DeviceArray,
    ) -> None:
        weighting, shape = self.weighting, self.problem.batch_shape
        assert weighting is not None
        strides = contiguous_strides(shape, self.compute.itemsize)
        raw = DeviceArray(None, losses, shape, strides, self.compute, self.device, self.handle)
        sum_of = None
        if self.reduced:
            divisor = known_divisor(weighting, self.weights)
            sum_of = totals.Sum(
                0, NO_TENSOR, 0, 1, 1, start + found.scratch[2], found.blocks, 0, 0,
                totals.BY_SUM if divisor is not None else MODES[weighting.reduction],
                1.0 if divisor is None else divisor, 1.0,
            )  # fmt: skip
        else:
            narrow = self.compute.itemsize < 8
            multiply(value, raw, operands[4], scale=self.weight, narrow=narrow, handle=self.handle)
        weights.gradient(
            raw, weighting, self.weights, (self.up, operands[5]), sum_of, out, self.handle
        )


def solve(
    problem: Problem, wrt: Sequence[str], upstream: Any, outs: Sequence[Any]
) -> tuple[Any, tuple[Any, ...]]:
    """The value of a problem, and its gradients, as Numba device arrays.

    Parameters
    ----------
    problem
        Its logits are on a GPU.
    wrt, upstream, outs
        As :func:`numba_xent.value_and_grad` has them.

    Raises
    ------
    TypeError
        If operands are on the host, or have dtypes that cannot be combined.
    ValueError
        If shapes do not fit, devices differ, strides cannot be followed, or outputs share memory.
    """
    return _Solution(problem, wrt, upstream, outs).solve()
