"""A problem on CUDA arrays in, losses and gradients out: all on one stream, nothing waits.

Checks that need no element of an array are made before any launch. What only the GPU knows is left
to it: the divisor of a reduction is computed there, and a label that is no class gives NaN.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import dtype_name
from .._device import DeviceArray, is_on_gpu
from .._weighting import Reduction
from . import arrays, driver, streams, totals
from .plan import NO_TENSOR, OPERANDS, Meta, Plan, make_plan
from .task import Tensor, flat

if TYPE_CHECKING:
    from .._problem import Problem

_MODES = {
    Reduction.MEAN: totals.BY_WEIGHTS,
    Reduction.SUM_BY_NONZERO_WEIGHTS: totals.BY_COUNT,
}


def _only_cuda(value: Any, name: str) -> DeviceArray:
    if isinstance(value, DeviceArray):
        return value
    raise TypeError(
        f"{name} must be a CUDA array as the logits are, got {type(value).__name__}; arrays of the "
        "host and of a GPU cannot be mixed"
    )


def _meta(array: DeviceArray | None) -> Meta | None:
    if array is None:
        return None
    return Meta(dtype_name(array.dtype), array.shape, array.strides)


def _as_factor(value: Any, name: str, compute: str) -> tuple[float, DeviceArray | None]:
    """A factor as a number, if the host knows it, and as a device array, if it does not."""
    if value is None:
        return 1.0, None
    if isinstance(value, DeviceArray):
        if dtype_name(value.dtype) != compute:
            raise TypeError(f"{name} on a GPU must have dtype {compute}, got {value.dtype}")
        return 1.0, value
    array = np.asarray(value)
    if array.ndim:
        _only_cuda(value, name)
    return float(array), None


def _extent(array: DeviceArray) -> tuple[int, int]:
    """The first byte and the one after the last that an array may touch."""
    reach = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    low = array.address + sum(min(0, r) for r in reach)
    return low, array.address + sum(max(0, r) for r in reach) + array.dtype.itemsize


def _overlap(a: DeviceArray, b: DeviceArray) -> bool:
    if a.size == 0 or b.size == 0:
        return False
    (a_low, a_high), (b_low, b_high) = _extent(a), _extent(b)
    return a_low < b_high and b_low < a_high


def _same_place(a: DeviceArray, b: DeviceArray) -> bool:
    place = operator.attrgetter("address", "shape", "strides", "dtype")
    return bool(place(a) == place(b))


def _output(
    out: Any, like: DeviceArray, position: str, read: Sequence[DeviceArray], in_place: bool
) -> DeviceArray:
    """Where a gradient goes: `out`, or a new array."""
    if out is None:
        return arrays.view(arrays.empty(like.shape, like.dtype), "out")
    if not is_on_gpu(out):
        raise TypeError(f"out{position} must be a CUDA array, got {type(out).__name__}")
    found = arrays.view(out, f"out{position}")
    if found.dtype != like.dtype:
        raise TypeError(f"out{position} must have dtype {like.dtype}, got {found.dtype}")
    if found.shape != like.shape:
        raise ValueError(f"out{position} must have shape {like.shape}, got {found.shape}")
    if found.readonly:
        raise ValueError(f"out{position} must be writeable, got a read-only array")
    if any(s == 0 for n, s in zip(found.shape, found.strides, strict=True) if n > 1):
        raise ValueError(f"out{position} must not have elements that share memory")
    for other in read:
        if _overlap(found, other) and not (in_place and _same_place(found, other)):
            raise ValueError(f"out{position} must not overlap an array that is read")
    return found


class _Call:
    """A problem whose operands have been checked."""

    def __init__(self, problem: Problem, upstream: Any) -> None:
        self.problem = problem
        self.logits = _only_cuda(problem.logits, "logits")
        self.labels = _only_cuda(problem.labels, "labels")
        weighting = problem.weighting
        self.weight, self.weights = _as_factor(
            None if weighting is None else weighting.weights, "weights", problem.compute
        )
        if is_on_gpu(upstream):
            upstream = arrays.view(upstream, "upstream")
        self.up, self.upstream = _as_factor(upstream, "upstream", problem.compute)
        wanted = () if problem.reduced else problem.batch_shape
        shape = np.shape(upstream) if self.upstream is None else self.upstream.shape
        if upstream is not None and shape != wanted:
            raise ValueError(f"upstream must have the shape of the value, {wanted}, got {shape}")
        self.read = [
            a for a in (self.logits, self.labels, self.weights, self.upstream) if a is not None
        ]
        self.device = self.logits.device
        self._check_devices(self.read)
        self.handle = streams.chosen() or self.logits.stream

    def _check_devices(self, found: Sequence[DeviceArray]) -> None:
        for array in found:
            if array.device != self.device:
                raise ValueError(
                    f"all CUDA arrays must be on one device, got {self.device} and {array.device}"
                )

    def solve(self, wrt: Sequence[str], outs: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
        """The value, and the gradient by each argument named."""
        problem = self.problem
        if "weights" in wrt:
            raise ValueError("wrt: the gradient by weights is not computed for CUDA arrays")
        if "labels" in wrt and self.labels.shape != self.logits.shape:
            raise ValueError("wrt: broadcast labels have no gradient for CUDA arrays")
        outputs: dict[str, DeviceArray] = {}
        for i, (name, out) in enumerate(zip(wrt, outs, strict=True)):
            position = "" if len(wrt) == 1 else f"[{i}]"
            if name == "labels" and not problem.label_gradient:
                if out is not None:
                    raise ValueError(
                        f"out{position} must be None: there is no gradient by integer labels"
                    )
                continue
            like = self.logits if name == "logits" else self.labels
            # Labels may be read after their gradient is written, logits may not.
            read = [*self.read, *outputs.values()]
            outputs[name] = _output(out, like, position, read, name == "logits")
        self._check_devices(list(outputs.values()))
        self._check_devices(self.read)
        driver.device(self.device).set_current()
        loss = arrays.empty(() if problem.reduced else problem.batch_shape, self.logits.dtype)
        if self.logits.size == 0:
            loss.copy_to_device(np.zeros(loss.shape, loss.dtype))
        else:
            with driver.lock:
                self._launch(arrays.view(loss, "losses"), outputs)
        return loss, tuple(
            None if name not in outputs else outputs[name].owner if out is None else out
            for name, out in zip(wrt, outs, strict=True)
        )

    def _launch(self, loss: DeviceArray, outputs: dict[str, DeviceArray]) -> None:
        problem, reduced = self.problem, self.problem.reduced
        operands = (
            self.logits,
            self.labels,
            outputs.get("logits"),
            outputs.get("labels"),
            self.weights,
            None if reduced else self.upstream,
        )
        metas = tuple(map(_meta, operands))
        number = self.device
        plan = make_plan(problem.axis, problem.sparse, metas, driver.processors(number))
        examples = plan.outer * plan.inner
        blocks = -(-examples // totals.EXAMPLES)
        wide = 8 if problem.compute == "float64" else 4
        states, raw, partials, scale_at = driver.scratch(
            (plan.states_bytes, examples * wide * reduced, blocks * 24, 8), number, self.handle
        )
        total = self._total(plan, loss, raw, partials, blocks) if reduced else None
        scale = self.up * self.weight
        if total is not None and outputs:
            host = self._known_divisor(examples)
            if host is not None and self.upstream is None:
                scale = scale / host if host != 0.0 else 0.0
                scale_at = 0
            else:
                # What gradients are divided by is known before the losses are.
                early = total._replace(losses=0, value=0, scale=scale_at)
                self._run_sums(early)
        else:
            scale_at = 0
        task = plan.task(
            [0 if a is None else a.address for a in operands],
            {
                "losses": raw if reduced else loss.address,
                "raw": int(reduced),
                "wide": int(problem.sparse and self.labels.dtype.itemsize == 8),
                "states": states,
                "scale_at": scale_at,
                "keep": 1.0 - problem.smoothing,
                "uniform": problem.smoothing / plan.classes,
                "scale": scale,
                "weight": self.weight,
            },
        )
        numbers = flat(task)
        for launch in plan.launches:
            loaded = driver.kernel(launch.choice, number)
            driver.run(loaded, launch.grid, launch.choice.threads, numbers, self.handle)
        if total is not None:
            self._run_sums(total)

    def _known_divisor(self, examples: int) -> float | None:
        """What the sum is divided by, if the host knows it."""
        weighting = self.problem.weighting
        if weighting is None or (self.weights is not None and weighting.reduction in _MODES):
            return None
        return weighting.divisor

    def _total(
        self, plan: Plan, loss: DeviceArray, raw: int, partials: int, blocks: int
    ) -> totals.Sum:
        """What the kernels that form the value are told."""
        weighting = self.problem.weighting
        assert weighting is not None
        divisor = self._known_divisor(plan.outer * plan.inner)
        mode = totals.BY_SUM if divisor is not None else _MODES[weighting.reduction]
        weights = plan.tensors[OPERANDS.index("weights")]
        return totals.Sum(
            raw,
            NO_TENSOR
            if self.weights is None or weights is None
            else Tensor(self.weights.address, *weights[1:]),
            0 if self.upstream is None else self.upstream.address,
            plan.outer,
            plan.inner,
            partials,
            blocks,
            loss.address,
            0,
            mode,
            1.0 if divisor is None else divisor,
            self.weight,
        )

    def _run_sums(self, task: totals.Sum) -> None:
        numbers = flat(task)
        dtype = dtype_name(self.logits.dtype)
        number, handle = self.device, self.handle
        driver.run_sum("partial_sums", dtype, task.blocks, numbers, number, handle)
        driver.run_sum("total_sum", dtype, 1, numbers, number, handle)


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
        If shapes do not fit, devices differ, strides cannot be followed, or outputs overlap.
    """
    return _Call(problem, upstream).solve(wrt, outs)
