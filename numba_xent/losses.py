r"""The functions of ``tf.losses``: weighted and reduced losses, and collections of them.

Each multiplies per-example losses by weights and reduces them as its ``reduction`` says, see
:class:`Reduction`; the default divides the sum by the number of weights that are not zero. The
class axis is the last.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._arrays import (
    Array,
    as_array,
    compute_dtype,
    in_dtype,
    is_a,
    is_float,
    real_numbers,
    shown,
)
from ._collections import (
    LOSSES,
    NamedLoss,
    add_loss,
    check_names,
    collect,
    collecting,
    get_losses,
    get_regularization_loss,
    get_regularization_losses,
    get_total_loss,
    is_collecting,
)
from ._device import DeviceArray
from ._dispatch import cuda_backend
from ._problem import (
    Call,
    Problem,
    as_upstream,
    check_disjoint,
    check_out,
    deliver,
    entry_point,
    safe_divide,
)
from ._weighting import Reduction, Weighting, canonical_key
from .nn import dense_problem_of_arrays, sparse_problem

__all__ = [
    "NamedLoss",
    "Reduction",
    "add_loss",
    "collecting",
    "compute_weighted_loss",
    "get_losses",
    "get_regularization_loss",
    "get_regularization_losses",
    "get_total_loss",
    "softmax_cross_entropy",
    "sparse_softmax_cross_entropy",
]

_NO_LABEL_GRADIENT = (
    "no gradient flows into the labels of this function; use "
    "numba_xent.nn.softmax_cross_entropy_with_logits_v2, which has one"
)


# ---- weights --------------------------------------------------------------------------------


def _as_weights(value: Any, compute: str) -> tuple[Array, Array]:
    """Weights as they are, and as real numbers."""
    given = as_array(value, "weights", np.float64 if compute == "float64" else np.float32)
    return given, real_numbers(given, "weights")


def _weighting(
    weights: Any,
    shape: tuple[int, ...],
    compute: str,
    reduction: str,
    labels: Array | None = None,
) -> Weighting:
    """Check weights against the shape of the losses, then convert them to the compute dtype.

    They have rank 0, or the rank of the losses and in each axis their length or 1; those of
    `labels` may have a last axis of length 1 more.
    """
    if type(weights) is float:
        return _weighting_by_number(weights, math.copysign(1, weights), shape, compute, reduction)
    given, factors = _as_weights(weights, compute)
    if labels is not None:
        factors = _squeeze_weights(factors, labels)
    if factors.ndim != 0:
        advice = (
            f"weights.shape={factors.shape}, losses.shape={shape}; they must be a scalar, or have "
            f"rank {len(shape)} and in each axis the length of the losses or 1"
        )
        if factors.ndim != len(shape):
            raise ValueError(
                f"weights can not be broadcast to values. values.rank={len(shape)}. "
                f"weights.rank={factors.ndim}. {advice}"
            )
        for i, (own, n) in enumerate(zip(factors.shape, shape, strict=True)):
            if own not in (1, n):
                raise ValueError(
                    f"weights can not be broadcast to values. Mismatch at dim {i}. {advice}"
                )
    on_gpu = isinstance(factors, DeviceArray)
    return Weighting(factors if on_gpu else in_dtype(factors, compute), given, shape, reduction)


@functools.lru_cache(256)
def _weighting_by_number(
    weight: float, sign: float, shape: tuple[int, ...], compute: str, reduction: str
) -> Weighting:
    """The same for a number, as almost always; -0.0 and 0.0 are equal but for their sign."""
    given, weights = _as_weights(weight, compute)
    return Weighting(in_dtype(weights, compute), given, shape, reduction)


# ---- calls ----------------------------------------------------------------------------------


_LAST_NAME = {Reduction.NONE: "Mul", Reduction.SUM: "Sum"}


@dataclass(slots=True)
class _Collected:
    """A call whose value is added to a collection, last of all."""

    call: Call
    scope: str | None
    default_scope: str
    reduction: str
    loss_collection: Any

    def value(self) -> Any:
        value = self.call.value()
        self._collect(value)
        return value

    def value_and_gradients(
        self, wrt: Sequence[str], upstream: Any, outs: Sequence[Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        value, gradients = self.call.value_and_gradients(wrt, upstream, outs)
        self._collect(value)
        return value, gradients

    def _collect(self, value: Any) -> None:
        last = _LAST_NAME.get(self.reduction, "value")
        collect(value, self.scope, self.default_scope, last, self.loss_collection)


def _collected(
    call: Call, scope: str | None, default_scope: str, reduction: str, loss_collection: Any
) -> Call:
    """The call, whose value is added to a collection if losses are collected."""
    if not is_collecting():
        return call
    return _Collected(call, scope, default_scope, reduction, loss_collection)


def _with_last_axis(array: Array) -> Array:
    return array[..., np.newaxis]


@dataclass(slots=True)
class _WithoutLastAxis:
    """A call whose logits have lost a last axis of length 1, which their gradient gets back."""

    call: Problem

    def value(self) -> Any:
        return self.call.value()

    def value_and_gradients(
        self, wrt: Sequence[str], upstream: Any, outs: Sequence[Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        shape = (*self.call.logits.shape, 1)
        check, extend = check_out, _with_last_axis
        if self.call.on_gpu:
            check, extend = cuda_backend().check_out, cuda_backend().with_last_axis
        inner = list(outs)
        for i, (name, out) in enumerate(zip(wrt, outs, strict=True)):
            if name == "logits" and out is not None:
                position = "" if len(wrt) == 1 else f"[{i}]"
                inner[i] = check(out, shape, self.call.logits.dtype, position)[..., 0]
        value, gradients = self.call.value_and_gradients(wrt, upstream, inner)
        return value, tuple(
            gradient if name != "logits" else extend(gradient) if out is None else out
            for name, gradient, out in zip(wrt, gradients, outs, strict=True)
        )


@dataclass(slots=True)
class _WeightedLoss:
    """A checked call of :func:`compute_weighted_loss`."""

    losses: Array
    weighting: Weighting

    def _computed(self) -> Array:
        """The losses in the compute dtype: they themselves if they have it."""
        with np.errstate(all="ignore"):
            return self.losses.astype(self.weighting.weights.dtype, copy=False)

    def _total(self) -> float:
        with np.errstate(all="ignore"):
            products = np.multiply(self._computed(), self.weighting.weights, dtype=np.float64)
            return float(np.sum(products))

    def value(self) -> Any:
        weighting = self.weighting
        with np.errstate(all="ignore"):
            if weighting.divisor is None:
                value = weighting.apply(self._computed())
            else:
                value = np.asarray(safe_divide(self._total(), weighting.divisor))
                # Halves are rounded from the compute dtype, and integers truncated from it.
                value = value.astype(weighting.weights.dtype)
            return value.astype(self.losses.dtype.newbyteorder("="), copy=False)[()]

    def value_and_gradients(
        self, wrt: Sequence[str], upstream: Any, outs: Sequence[Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        weighting = self.weighting
        divisor = weighting.divisor
        up = as_upstream(
            upstream,
            self.losses.shape if divisor is None else (),
            weighting.weights.dtype.name,
        )
        arrays = {"losses": self.losses, "weights": weighting.given}
        places: list[Array | None] = []
        for i, (name, out) in enumerate(zip(wrt, outs, strict=True)):
            if out is None:
                places.append(None)
            else:
                position = "" if len(wrt) == 1 else f"[{i}]"
                if not is_float(arrays[name]):
                    raise ValueError(
                        f"out{position} must be None: there is no gradient by integer {name}"
                    )
                dtype = arrays[name].dtype.newbyteorder("=")
                places.append(check_out(out, arrays[name].shape, dtype, position))
        check_disjoint(places)
        value = self.value()
        by_weights = weighting.gradient() if "weights" in wrt else None
        gradients = {
            "losses": self._losses_gradient(up) if "losses" in wrt else None,
            "weights": by_weights and by_weights.of(self._computed(), self._total(), up),
        }
        return value, tuple(
            deliver(gradients[name], place, out)
            for name, place, out in zip(wrt, places, outs, strict=True)
        )

    def _losses_gradient(self, upstream: Array | None) -> Array | None:
        if not is_float(self.losses):
            return None
        with np.errstate(all="ignore"):
            up = 1.0 if upstream is None else upstream.astype(np.float64)
            divisor = self.weighting.divisor
            scale = up * safe_divide(1.0, 1.0 if divisor is None else divisor)
            each = scale * self.weighting.weights.astype(np.float64)
            full = np.broadcast_to(each, self.losses.shape)
            return full.astype(self.losses.dtype.newbyteorder("="))


@dataclass(slots=True)
class _WeightedLossOnGPU:
    """The same for CUDA arrays."""

    losses: Array
    weighting: Weighting

    def value(self) -> Any:
        return self.value_and_gradients((), None, ())[0]

    def value_and_gradients(
        self, wrt: Sequence[str], upstream: Any, outs: Sequence[Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        found: tuple[Any, tuple[Any, ...]] = cuda_backend().weighted_loss(
            self.losses, self.weighting, wrt, upstream, outs
        )
        return found


# ---- public functions -----------------------------------------------------------------------


def _missing(**given: Any) -> ValueError:
    """What to say of the first argument that is None."""
    name = next(name for name, value in given.items() if value is None)
    return ValueError(f"{name} must not be None.")


@entry_point(
    "logits",
    "weights",
    closed={"onehot_labels": _NO_LABEL_GRADIENT, "labels": _NO_LABEL_GRADIENT},
)
def softmax_cross_entropy(
    onehot_labels: Any,
    logits: Any,
    weights: Any = 1.0,
    label_smoothing: float = 0,
    scope: str | None = None,
    loss_collection: Hashable = LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Call:
    r"""Weighted softmax cross-entropy for one label per class.

    .. math:: x_i = \sum_j l'_{ij} \bigl(\log \sum_k e^{z_{ik}} - z_{ij}\bigr),
        \quad l' = l (1 - \epsilon) + \epsilon / C

    for logits :math:`z`, labels :math:`l` and label smoothing :math:`\epsilon`; then the weighted
    reduction of :math:`x`, see :class:`Reduction`. No gradient flows into the labels.

    Parameters
    ----------
    onehot_labels : array_like
        One label per class: the shape of `logits`, any numeric dtype. They need not be one-hot.
    logits : array_like
        Unnormalised log-probabilities, classes last; float16, bfloat16, float32 or float64.
    weights : array_like, optional
        A scalar, or of the rank of the losses and in each axis as long as they are or 1.
    label_smoothing : float, optional
        Share of each label that is spread evenly over all classes, if greater than 0.
    scope : str, optional
        Names the loss in a collection.
    loss_collection : hashable, optional
        The collection that the loss is added to inside :func:`collecting`.
    reduction : str, optional
        A key of :class:`Reduction`.

    Returns
    -------
    numpy scalar or numpy.ndarray
        The reduced loss in nats; with ``Reduction.NONE`` the weighted losses, of the shape of
        `logits` without the last axis. The dtype is that of `logits`.

    Raises
    ------
    ValueError
        If an argument is None, shapes do not fit, or the reduction is unknown.
    TypeError
        If a dtype or the kind of an argument is wrong.

    References
    ----------
    ``tf.compat.v1.losses.softmax_cross_entropy``. Float64 is weighted and reduced in float64.

    Examples
    --------
    >>> import numba_xent as xent
    >>> labels, logits = [[0, 0, 1], [0, 1, 0]], [[1.0, 2.0, 3.0], [0.0, 5.0, -1.0]]
    >>> float(xent.losses.softmax_cross_entropy(labels, logits))  # doctest: +ELLIPSIS
    0.20839...
    >>> xent.losses.softmax_cross_entropy(labels, logits, weights=[1.0, 0.0], reduction="none")
    array([0.40760598, 0.        ], dtype=float32)
    """
    check_names(scope, loss_collection)
    if onehot_labels is None or logits is None:
        raise _missing(onehot_labels=onehot_labels, logits=logits)
    label_array = as_array(onehot_labels, "onehot_labels")
    logit_array = as_array(logits, "logits")
    if label_array.shape != logit_array.shape:
        raise ValueError(
            f"onehot_labels and logits: Shapes {label_array.shape} and {logit_array.shape} are "
            "incompatible; they must be equal"
        )
    smoothing = _as_smoothing(label_smoothing)
    problem = dense_problem_of_arrays(
        label_array, logit_array, None, ("onehot_labels", "logits", "axis")
    )
    problem.smoothing = smoothing
    key = canonical_key(reduction)
    problem.weighting = _weighting(weights, problem.batch_shape, problem.compute, key)
    return _collected(problem, scope, "softmax_cross_entropy_loss", key, loss_collection)


def _as_smoothing(value: Any) -> float:
    """Label smoothing as a number; what is not greater than 0 smooths nothing."""
    number = value
    if is_a(value, np.ndarray, np.generic) and not is_a(value, np.ma.MaskedArray):
        value = np.asarray(value)
        if value.size != 1:
            raise ValueError(
                f"label_smoothing must be one number, got an array of shape {value.shape}"
            )
        if value.dtype.kind in "biuf" or is_float(value):
            number = value.item()
    if not is_a(number, bool, int, float):
        raise TypeError(f"label_smoothing must be a number, got {shown(value)}")
    try:
        number = float(number)
    except OverflowError:
        raise ValueError("label_smoothing is too large for a float") from None
    except Exception:  # noqa: BLE001 - a subclass's own __float__ may raise anything
        raise TypeError(f"label_smoothing must be a number, got {shown(value)}") from None
    return number if number > 0 else 0.0


@entry_point("logits", "weights", closed={"labels": _NO_LABEL_GRADIENT})
def sparse_softmax_cross_entropy(
    labels: Any,
    logits: Any,
    weights: Any = 1.0,
    scope: str | None = None,
    loss_collection: Hashable = LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Call:
    r"""Weighted softmax cross-entropy for labels that are class indices.

    .. math:: x_i = \log \sum_k e^{z_{ik}} - z_{i y_i}

    for logits :math:`z` and labels :math:`y`; then the weighted reduction of :math:`x`, see
    :class:`Reduction`.

    Parameters
    ----------
    labels : array_like of int32 or int64
        The class of each example: the shape of `logits` without the last axis; a last axis of
        length 1 more is dropped.
    logits : array_like
        Unnormalised log-probabilities, classes last; float16, bfloat16, float32 or float64. A last
        axis of length 1 is dropped if `labels` has two axes less.
    weights : array_like, optional
        A scalar, or of the rank of the losses and in each axis as long as they are or 1. A last
        axis of length 1 more is dropped.
    scope : str, optional
        Names the loss in a collection.
    loss_collection : hashable, optional
        The collection that the loss is added to inside :func:`collecting`.
    reduction : str, optional
        A key of :class:`Reduction`.

    Returns
    -------
    numpy scalar or numpy.ndarray
        The reduced loss in nats; with ``Reduction.NONE`` the weighted losses. The dtype is that of
        `logits`.

    Raises
    ------
    ValueError
        If an argument is None, shapes do not fit, a label is not in ``[0, classes)``, or the
        reduction is unknown.
    TypeError
        If a dtype or the kind of an argument is wrong.

    References
    ----------
    ``tf.compat.v1.losses.sparse_softmax_cross_entropy``. Float64 is weighted and reduced in
    float64.

    Examples
    --------
    >>> import numba_xent as xent
    >>> logits = [[1.0, 2.0, 3.0], [0.0, 5.0, -1.0]]
    >>> float(xent.losses.sparse_softmax_cross_entropy([2, 1], logits))  # doctest: +ELLIPSIS
    0.20839...
    """
    check_names(scope, loss_collection)
    if labels is None or logits is None:
        raise _missing(labels=labels, logits=logits)
    label_array = as_array(labels, "labels")
    logit_array = as_array(logits, "logits")
    rank = logit_array.ndim
    if rank - label_array.ndim != 1:
        label_array, logit_array = _squeeze(label_array, logit_array)
    problem = sparse_problem(label_array, logit_array, ("labels", "logits"))
    key = canonical_key(reduction)
    problem.weighting = _weighting(weights, problem.batch_shape, problem.compute, key, label_array)
    squeezed = logit_array.ndim < rank
    call: Call = _WithoutLastAxis(problem) if squeezed else problem
    return _collected(call, scope, "sparse_softmax_cross_entropy_loss", key, loss_collection)


def _squeeze(labels: Array, logits: Array) -> tuple[Array, Array]:
    """Drop a last axis of length 1 from one of the two, by their ranks, as TensorFlow does."""
    rank_difference = logits.ndim - labels.ndim
    if rank_difference == 0 and labels.ndim > 0 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    elif rank_difference == 2 and logits.shape[-1] == 1:  # noqa: PLR2004
        logits = logits[..., 0]
    return labels, logits


def _squeeze_weights(weights: Array, labels: Array) -> Array:
    """Drop a last axis of length 1 from weights that have one axis more than the labels."""
    if weights.ndim != labels.ndim + 1:
        return weights
    if weights.shape[-1] != 1:
        raise ValueError(
            f"weights: Can not squeeze dim[{weights.ndim - 1}], expected a dimension of 1, got "
            f"{weights.shape[-1]}; weights.shape={weights.shape}, labels.shape={labels.shape}"
        )
    return weights[..., 0]


@entry_point("losses", "weights")
def compute_weighted_loss(
    losses: Any,
    weights: Any = 1.0,
    scope: str | None = None,
    loss_collection: Hashable = LOSSES,
    reduction: str = Reduction.SUM_BY_NONZERO_WEIGHTS,
) -> Call:
    r"""Multiply losses by weights and reduce them.

    Parameters
    ----------
    losses : array_like
        Any numeric dtype and shape. Float64 is computed in float64, everything else in float32.
    weights : array_like, optional
        A scalar, or of the rank of `losses` and in each axis as long as they are or 1.
    scope : str, optional
        Names the loss in a collection.
    loss_collection : hashable, optional
        The collection that the loss is added to inside :func:`collecting`.
    reduction : str, optional
        A key of :class:`Reduction`.

    Returns
    -------
    numpy scalar or numpy.ndarray
        The reduced loss, or with ``Reduction.NONE`` the weighted losses, in the dtype of `losses`
        (integers are truncated).

    Raises
    ------
    ValueError
        If an argument is None, the weights do not fit, or the reduction is unknown.
    TypeError
        If a dtype or the kind of an argument is wrong.

    References
    ----------
    ``tf.compat.v1.losses.compute_weighted_loss``. Float64 is not rounded to float32 on the way.

    Examples
    --------
    >>> import numba_xent as xent
    >>> float(xent.losses.compute_weighted_loss([1.0, 2.0, 6.0], weights=[1.0, 0.0, 0.5]))
    2.0
    """
    check_names(scope, loss_collection)
    key = canonical_key(reduction)
    # Their compute dtype depends on the losses, but TensorFlow converts the weights first.
    _as_weights(weights, "float64")
    array = real_numbers(as_array(losses, "losses"), "losses")
    compute = compute_dtype(array.dtype)
    weighting = _weighting(weights, array.shape, compute, key)
    on_gpu = isinstance(array, DeviceArray) or isinstance(weighting.weights, DeviceArray)
    call = (_WeightedLossOnGPU if on_gpu else _WeightedLoss)(array, weighting)
    return _collected(call, scope, "weighted_loss", key, loss_collection)
