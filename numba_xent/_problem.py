"""A validated call in canonical form, and how its results are allocated and returned.

The public functions check their arguments in TensorFlow's order and end up here, all of them, with
one :class:`Problem`: the arrays, the class axis, label smoothing, weights, and what to divide by.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, ParamSpec, Protocol

import numpy as np

from ._arrays import (
    Array,
    address,
    as_array,
    compute_dtype,
    empty_like,
    in_dtype,
    is_a,
    is_float,
    real_numbers,
    to_dtype,
)
from ._device import DeviceArray
from ._dispatch import backend, cuda_backend
from ._layout import has_internal_overlap
from ._weighting import Weighting, sum_to_shape

P = ParamSpec("P")

_OVERLAP_WORK = 10_000
"""How long to look for a shared element before two arrays are taken to overlap."""

_PIECE = 1 << 18
"""How many terms of the gradient by broadcast labels are made at once."""

_LABELS_SHOWN = 1000
"""As many labels are listed in the message about one that is out of range."""


class Call(Protocol):
    """A checked call of a public function, ready to be computed."""

    def value(self) -> Any:
        """What the function returns."""

    def value_and_gradients(
        self, wrt: Sequence[str], upstream: Any, outs: Sequence[Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """The value, and the gradient by each of the arguments named."""


class Differentiable(Generic[P]):
    """A public function, and what is known of its gradients.

    Attributes
    ----------
    plan
        The function's arguments to a checked :class:`Call`.
    wrt
        The arguments that it can be differentiated by.
    closed
        The arguments through which no gradient flows, and what to say about each.
    """

    def __init__(
        self, plan: Callable[P, Call], wrt: tuple[str, ...], closed: dict[str, str]
    ) -> None:
        self.plan = plan
        self.wrt = wrt
        self.closed = closed


REGISTRY: dict[Callable[..., Any], Differentiable[Any]] = {}
"""The public functions that can be differentiated."""


def entry_point(
    *wrt: str, closed: dict[str, str] | None = None
) -> Callable[[Callable[P, Call]], Callable[P, Any]]:
    """Make a public function of one that checks the arguments and returns a :class:`Call`."""

    def decorate(plan: Callable[P, Call]) -> Callable[P, Any]:
        @functools.wraps(plan)
        def function(*args: P.args, **kwargs: P.kwargs) -> Any:
            return plan(*args, **kwargs).value()

        signature = inspect.signature(plan).replace(return_annotation=Any)
        function.__signature__ = signature  # type: ignore[attr-defined]
        REGISTRY[function] = Differentiable(plan, wrt, closed or {})
        return function

    return decorate


def safe_divide(total: Any, divisor: float) -> Any:
    """``total / divisor``, and 0 where the divisor is 0, whatever the total."""
    return total / divisor if divisor != 0.0 else 0.0


def as_upstream(upstream: Any, shape: tuple[int, ...], compute: str) -> Array | None:
    """The upstream gradient in the compute dtype; None stands for ones.

    Raises
    ------
    ValueError
        If its shape is not that of the value.
    TypeError
        If it is not numeric.
    """
    if upstream is None:
        return None
    floats = np.float64 if compute == "float64" else np.float32
    array = real_numbers(as_array(upstream, "upstream", floats), "upstream")
    if array.shape != shape:
        raise ValueError(
            f"upstream must have the shape of the value, {shape}, got shape {array.shape}"
        )
    return in_dtype(array, compute)


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], position: str) -> Array:
    """Check an array that is to receive a gradient; `position` is its place in a tuple.

    Returns a plain view, which has the shape and strides that the memory really has, and keeps them
    whatever becomes of `out`.

    Raises
    ------
    TypeError
        If it is not a NumPy array of the gradient's dtype.
    ValueError
        If it has another shape, cannot be written, or has elements that share memory.
    """
    if type(out) is not np.ndarray:
        if not is_a(out, np.ndarray) or is_a(out, np.ma.MaskedArray):
            raise TypeError(f"out{position} must be a NumPy array, got {type(out).__name__}")
        out = np.asarray(out)
    out = out[...]
    if out.dtype != dtype and out.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"out{position} must have dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out{position} must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"out{position} must be writeable, got a read-only array")
    if not out.flags.forc and has_internal_overlap(out.shape, out.strides, out.itemsize):
        raise ValueError(f"out{position} must not have elements that share memory")
    plain: Array = out
    return plain


def overlaps(out: Array, others: Sequence[Array | None]) -> bool:
    """Whether an array shares memory with any of the others."""
    for other in others:
        if other is None or not np.may_share_memory(out, other):
            continue
        try:
            if np.shares_memory(out, other, max_work=_OVERLAP_WORK):  # type: ignore[arg-type]
                return True
        except np.exceptions.TooHardError:
            return True
    return False


def check_disjoint(outs: Sequence[Array | None]) -> None:
    """Check that no two of several outputs share memory.

    Raises
    ------
    ValueError
        If two do.
    """
    if len(outs) < 2:  # noqa: PLR2004
        return
    given = [out for out in outs if out is not None]
    for i, out in enumerate(given):
        if overlaps(out, given[:i]):
            raise ValueError("out: the arrays must not share memory with one another")


def deliver(gradient: Any, place: Array | None, out: Any) -> Any:
    """The gradient as the caller wants it: in `out`, whose memory is `place`, or as it is."""
    if place is not None:
        if gradient is not place:
            place[...] = gradient
        return out
    return gradient[()] if gradient is not None and gradient.ndim == 0 else gradient


@dataclass(slots=True)
class Problem:
    """Softmax cross-entropy of logits and labels, weighted and reduced.

    Attributes
    ----------
    logits
        Float array, native and aligned.
    labels
        Dense: one label per class, broadcastable to the logits at equal rank. Sparse: integers of
        the batch shape. Native and aligned.
    sparse
        Which of the two.
    axis
        The class axis of the logits, counted from the front.
    smoothing
        Label smoothing, 0 for none.
    weighting
        The weights and the reduction; None to return each loss.
    label_gradient
        Whether the labels came as floats, so that they have a gradient.
    batch_shape
        The shape of the losses.
    compute
        The name of the compute dtype.
    """

    logits: Array
    labels: Array
    sparse: bool
    axis: int
    smoothing: float = 0.0
    weighting: Weighting | None = None
    label_gradient: bool = True
    batch_shape: tuple[int, ...] = field(init=False)
    compute: str = field(init=False)

    def __post_init__(self) -> None:
        shape = self.logits.shape
        self.batch_shape = shape[: self.axis] + shape[self.axis + 1 :]
        self.compute = compute_dtype(self.logits.dtype)

    @property
    def classes(self) -> int:
        """The number of classes."""
        classes: int = self.logits.shape[self.axis]
        return classes

    @property
    def weights(self) -> Array | None:
        """The weights in the compute dtype, broadcastable to the batch shape; None for ones."""
        return None if self.weighting is None else self.weighting.weights

    @property
    def reduced(self) -> bool:
        """Whether the value is one number."""
        return self.weighting is not None and self.weighting.divisor is not None

    @property
    def on_gpu(self) -> bool:
        """Whether one of the arrays is on a GPU; then all must be."""
        weighting = self.weighting
        return (
            isinstance(self.logits, DeviceArray)
            or isinstance(self.labels, DeviceArray)
            or (weighting is not None and isinstance(weighting.weights, DeviceArray))
        )

    def value(self) -> Any:
        """The loss of each example, or their weighted and reduced sum."""
        if self.on_gpu:
            return cuda_backend().solve(self, (), None, ())[0]
        losses, total = self._solve(self.reduced, None, 1.0, None, None)
        return self._result(losses, total)

    def value_and_gradients(
        self, wrt: Sequence[str], upstream: Any, outs: Sequence[Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """The value, and the gradient by each of ``logits``, ``labels``, ``weights`` named."""
        if self.on_gpu:
            found: tuple[Any, tuple[Any, ...]] = cuda_backend().solve(self, wrt, upstream, outs)
            return found
        up = as_upstream(upstream, () if self.reduced else self.batch_shape, self.compute)
        read = (self.logits, self.labels, self.weights, up)
        buffers: dict[str, Array | None] = {}
        places = []
        for i, (name, out) in enumerate(zip(wrt, outs, strict=True)):
            place = self._check_out(name, out, "" if len(wrt) == 1 else f"[{i}]")
            places.append(place)
            if name in ("logits", "labels"):
                buffers[name] = self._buffer(name, place, read)
        check_disjoint(places)
        raw = self.reduced or "weights" in wrt
        by_weights = weighted = None
        if self.weighting is not None and "weights" in wrt:
            by_weights = self.weighting.gradient()
        if raw and not self.reduced and self.logits.dtype != self.compute:
            weighted = np.empty(self.batch_shape, self.logits.dtype)
        scale = 1.0
        each_up = up
        if self.weighting is not None and self.weighting.divisor is not None:
            each_up = None
            scale = safe_divide(1.0 if up is None else float(up), self.weighting.divisor)
        d_logits = buffers.get("logits")
        if "labels" in wrt and self._labels_are_broadcast():
            losses, buffers["labels"] = self._solve_in_pieces(each_up, d_logits)
            total = 0.0
        else:
            losses, total = self._solve(raw, each_up, scale, d_logits, buffers.get("labels"))
        # All is computed before anything is delivered: an output may overlap what is read here.
        if by_weights is not None:
            buffers["weights"] = by_weights.of(losses, total, up)
        if raw and not self.reduced and self.weighting is not None:
            self.weighting.apply(losses, out=losses)
            if weighted is not None:
                with np.errstate(all="ignore"):
                    weighted[...] = losses
                losses = weighted
        value = self._result(losses, total)
        results = [
            deliver(buffers.get(name), place, out)
            for name, place, out in zip(wrt, places, outs, strict=True)
        ]
        return value, tuple(results)

    def _result(self, losses: Array, total: float) -> Any:
        if self.weighting is not None and self.weighting.divisor is not None:
            return to_dtype(safe_divide(total, self.weighting.divisor), self.logits.dtype)
        return losses[()] if losses.ndim == 0 else losses

    def _solve(
        self,
        raw: bool,
        upstream: Array | None,
        scale: float,
        d_logits: Array | None,
        d_labels: Array | None,
    ) -> tuple[Array, float]:
        """Losses (unweighted and in the compute dtype if `raw`) and, if `raw`, their weighted sum.

        Gradients are written where they are wanted.
        """
        losses = np.empty(self.batch_shape, self.compute if raw else self.logits.dtype)
        return losses, self._solve_into(losses, raw, upstream, scale, d_logits, d_labels)

    def _solve_into(
        self,
        losses: Array,
        raw: bool,
        upstream: Array | None,
        scale: float,
        d_logits: Array | None,
        d_labels: Array | None,
    ) -> float:
        """Like :meth:`_solve`, with memory for the losses."""
        if self.logits.size == 0:
            # Without classes every loss is 0; without examples there is nothing to compute.
            losses[...] = 0
            weighted = losses if self.weighting is None else self.weighting.apply(losses)
            if raw:
                with np.errstate(invalid="ignore"):
                    return float(weighted.sum())
            losses[...] = weighted
            return 0.0
        try:
            total: float = backend().solve(self, losses, raw, upstream, scale, d_logits, d_labels)
        except IndexError:
            raise ValueError(self._bad_label()) from None
        return total

    def _labels_are_broadcast(self) -> bool:
        """Whether the labels are floats, which have a gradient, and are broadcast."""
        return self.label_gradient and self.labels.shape != self.logits.shape

    def _solve_in_pieces(
        self, upstream: Array | None, d_logits: Array | None
    ) -> tuple[Array, Array]:
        """Losses, and the gradient by labels that are broadcast (without weights).

        It is the sum of as many terms as there are logits. They are made and summed a piece of the
        batch at a time, so that they never fill memory.
        """
        losses = np.zeros(self.batch_shape, self.logits.dtype)
        total = np.zeros(self.labels.shape, np.float64)
        gradient = np.empty(self.labels.shape, self.labels.dtype)
        shape = self.logits.shape
        batch_axes = [i for i in range(len(shape)) if i != self.axis] or [self.axis]
        cut = max(batch_axes, key=lambda i: shape[i])
        whole = cut == self.axis  # there is one example
        step = shape[cut] if whole else max(1, _PIECE * shape[cut] // max(1, self.logits.size))
        room = np.empty(self.logits[(slice(None),) * cut + (slice(step),)].size, self.compute)
        for start in range(0, shape[cut], max(1, step)):
            at = (slice(None),) * cut + (slice(start, start + step),)
            at_batch = (...,) if whole else at[1:] if cut > self.axis else at
            at_labels = at if self.labels.shape[cut] == shape[cut] else ()
            piece = replace(self, logits=self.logits[at], labels=self.labels[at_labels])
            terms = room[: piece.logits.size].reshape(piece.logits.shape)
            piece._solve_into(
                losses[at_batch],
                False,
                None if upstream is None else upstream[at_batch],
                1.0,
                None if d_logits is None else d_logits[at],
                terms,
            )
            with np.errstate(all="ignore"):
                total[at_labels] += sum_to_shape(terms, piece.labels.shape)
        with np.errstate(all="ignore"):
            gradient[...] = total
        return losses, gradient

    def _bad_label(self) -> str:
        low, high = int(self.labels.min()), int(self.labels.max())
        values = self.labels.ravel()
        shown = " ".join(map(str, values[:_LABELS_SHOWN].tolist()))
        more = " ..." if values.size > _LABELS_SHOWN else ""
        return (
            f"labels: Received a label value of {low if low < 0 else high} which is outside the "
            f"valid range of [0, {self.classes}).  Label values: {shown}{more}"
        )

    def _check_out(self, name: str, out: Any, position: str) -> Array | None:
        """Check the output for the gradient by an argument."""
        if out is None:
            return None
        if name == "logits":
            return check_out(out, self.logits.shape, self.logits.dtype, position)
        target = self.labels if self.label_gradient else None
        if name == "weights":
            target = None if self.weighting is None else self.weighting.given
        if target is None or not is_float(target):
            raise ValueError(f"out{position} must be None: there is no gradient by integer {name}")
        return check_out(out, target.shape, target.dtype.newbyteorder("="), position)

    def _buffer(self, name: str, out: Array | None, read: Sequence[Array | None]) -> Array | None:
        """The memory that a kernel writes a gradient to: `out`, or an array of its own."""
        operand = self.logits if name == "logits" else self.labels
        if name == "labels" and (not self.label_gradient or self._labels_are_broadcast()):
            return None
        if out is not None and out.dtype.isnative and out.flags.aligned:
            # Logits may be overwritten in place, anything else that is still to be read may not.
            others = read[1:] if name == "logits" and _same_place(out, self.logits) else read
            if not overlaps(out, others):
                return out
        return empty_like(operand)


def _same_place(a: Array, b: Array) -> bool:
    """Whether two arrays are the same elements in the same order."""
    return (
        address(a) == address(b)
        and a.strides == b.strides
        and a.shape == b.shape
        and a.dtype == b.dtype
    )
