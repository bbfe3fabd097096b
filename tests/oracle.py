"""Softmax cross-entropy written out plainly, in a type wider than the one under test.

Nothing here is fast and nothing is shared with the library: every formula is taken from the
description of TensorFlow's functions. The functions take valid arguments only; which arguments are
valid is the business of the tests of errors. Each function returns an `Answer`, whose arrays are
in the wide type: `narrow` rounds them once to the type that the library returns.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
FLOATS = (*HALVES, np.dtype(np.float32), np.dtype(np.float64))
NONE, SUM, MEAN = "none", "weighted_sum", "weighted_mean"
BATCH, NONZERO = "weighted_sum_over_batch_size", "weighted_sum_by_nonzero_weights"
REDUCTIONS = (NONE, SUM, MEAN, BATCH, NONZERO)


@dataclass
class Answer:
    """A value, and the gradient with respect to each argument that has one."""

    value: np.ndarray
    grads: dict[str, np.ndarray] = field(default_factory=dict)


def as_array(x: Any) -> np.ndarray:
    """NumPy values keep their dtype; Python floats are float32, Python ints int32 if they fit."""
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x)
    a = np.asarray(x)
    if a.dtype == np.float64:
        return a.astype(np.float32)
    if a.dtype == np.int64 and np.array_equal(a, a.astype(np.int32)):
        return a.astype(np.int32)
    return a


def compute_dtype(dtype: Any) -> np.dtype:
    """The type in which the library computes: float64 for float64, float32 for all others."""
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def wide(x: Any, dtype: Any) -> np.ndarray:
    """`x` rounded to the compute type of `dtype`, held in a wider type.

    float64 for what is computed in float32, the long double for what is computed in float64.
    """
    a = as_array(x)
    if np.iscomplexobj(a):
        a = a.real
    compute = compute_dtype(dtype)
    with np.errstate(over="ignore"):
        a = a.astype(compute)
    return a.astype(np.longdouble if compute == np.float64 else np.float64)


def narrow(x: np.ndarray, dtype: Any) -> np.ndarray:
    """`x` rounded to `dtype`; towards zero for integers.

    Halves are computed in float32, so they are rounded to float32 on the way.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(x).astype(compute_dtype(dtype)).astype(dtype)


def ulp(x: Any, dtype: Any) -> np.ndarray:
    """The distance between neighbouring numbers of `dtype` in the binade of `x`."""
    info = ml_dtypes.finfo(dtype)
    a = np.abs(np.asarray(x, np.longdouble))
    a = np.clip(a, info.smallest_normal, info.max)
    _, exponent = np.frexp(a)
    return np.ldexp(np.longdouble(1), exponent - 1 - info.nmant)


def error_in_ulp(got: Any, exact: Any, dtype: Any) -> np.ndarray:
    """|got - exact| in units of ulp(exact); 0 where both are the same NaN or infinity."""
    g = np.asarray(got).astype(np.longdouble)
    e = np.asarray(exact, np.longdouble)
    with np.errstate(over="ignore"):
        rounded = e.astype(compute_dtype(dtype)).astype(np.longdouble)
    same = (g == rounded) | (np.isnan(g) & np.isnan(e))
    with np.errstate(invalid="ignore"):
        error = np.abs(g - e) / ulp(e, dtype)
    return np.where(same & ~np.isfinite(rounded), 0.0, np.where(np.isnan(error), np.inf, error))


# --- one loss per example


def log_softmax(z: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(softmax, -log softmax) along `axis`.

    The sum of exponentials is 1, for the maximum, plus the rest: log1p(rest) keeps all digits of
    the small loss of a confident row.
    """
    if z.shape[axis] == 0:
        return z, z
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        d = z - z.max(axis, keepdims=True)
        e = np.exp(d)
        others = np.ones(z.shape, bool)
        np.put_along_axis(others, np.expand_dims(z.argmax(axis), axis), False, axis)
        rest = (e * others).sum(axis, keepdims=True)
        return e / (1 + rest), np.log1p(rest) - d


def times(label: np.ndarray, cost: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """Label * cost, where a label of exactly 0 on a logit of -inf contributes 0.

    Rows without any finite logit, or with a NaN, have a NaN cost, which always comes through.
    """
    with np.errstate(invalid="ignore"):
        product = label * cost
    return np.where((label == 0) & (logit == -np.inf) & ~np.isnan(cost), 0.0, product)


def per_example(labels: np.ndarray, z: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """(loss, d loss / d logits, d loss / d labels) of wide arrays of one shape."""
    p, cost = log_softmax(z, axis)
    with np.errstate(invalid="ignore", over="ignore"):
        loss = times(labels, cost, z).sum(axis)
        return loss, p - labels, cost


def sum_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The transpose of broadcasting `shape` to x.shape at equal rank, or from a scalar."""
    if shape == ():
        return x.sum()
    return x.sum(tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True).reshape(shape)


def dense(labels: Any, logits: Any, axis: int | None = None, upstream: Any = None) -> Answer:
    """`softmax_cross_entropy_with_logits`, v1 and v2; labels broadcast at equal rank."""
    logits, labels = as_array(logits), as_array(labels)
    axis = (-1 if axis is None else axis) % logits.ndim
    z = wide(logits, logits.dtype)
    lab = np.broadcast_to(wide(labels, logits.dtype), z.shape)
    loss, dz, dl = per_example(lab, z, axis)
    up = np.expand_dims(spread(upstream, loss, logits.dtype), axis)
    with np.errstate(invalid="ignore", over="ignore"):
        return Answer(loss, {"logits": up * dz, "labels": sum_to(up * dl, labels.shape)})


def one_hot(labels: Any, n_classes: int) -> np.ndarray:
    """Rows of zeros with a one at the label."""
    return (np.asarray(labels)[..., None] == np.arange(n_classes)).astype(np.float64)


def sparse(labels: Any, logits: Any, upstream: Any = None) -> Answer:
    """`sparse_softmax_cross_entropy_with_logits`: no other class is multiplied by anything."""
    logits, labels = as_array(logits), as_array(labels)
    z = wide(logits, logits.dtype)
    p, cost = log_softmax(z, -1)
    loss = np.take_along_axis(cost, labels[..., None].astype(np.int64), -1)[..., 0]
    up = spread(upstream, loss, logits.dtype)[..., None]
    with np.errstate(invalid="ignore"):
        return Answer(loss, {"logits": up * (p - one_hot(labels, z.shape[-1]))})


def spread(upstream: Any, value: np.ndarray, dtype: Any) -> np.ndarray:
    """The upstream gradient, ones by default, with the shape of the value."""
    return np.ones_like(value) if upstream is None else wide(upstream, dtype).reshape(value.shape)


# --- losses: weights, smoothing, reductions


def smooth(labels: np.ndarray, amount: Any) -> np.ndarray:
    """Labels * (1 - amount) + amount / classes, only for a positive amount."""
    n = labels.shape[-1]
    if not (amount > 0) or n == 0:
        return labels
    a = labels.dtype.type(np.asarray(amount).reshape(()))
    with np.errstate(invalid="ignore"):
        return labels * (1 - a) + a / n


def reduce(x: np.ndarray, w: np.ndarray, reduction: str, up: np.ndarray) -> tuple[np.ndarray, ...]:
    """(value, gradient of x, gradient of w) of the weighted loss; w has x's rank or none.

    The number of present weights counts as a constant; every gradient is 0 if the value is not a
    quotient because its denominator is 0.
    """
    wb = np.broadcast_to(w, x.shape)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if reduction == NONE:
            return x * wb, up * wb, sum_to(up * x, w.shape)
        total = (x * wb).sum()
        if reduction == SUM:
            return total, up * wb, sum_to(up * x, w.shape)
        denominator = {
            MEAN: wb.sum(),
            BATCH: wb.dtype.type(x.size),
            NONZERO: wb.dtype.type(np.count_nonzero(wb)),
        }[reduction]
        if denominator == 0:
            return np.zeros_like(total), np.zeros_like(x), np.zeros_like(w)
        value = total / denominator
        dw = (x - value) if reduction == MEAN else x
        return value, up * wb / denominator, sum_to(up * dw / denominator, w.shape)


def compute_weighted_loss(
    losses: Any, weights: Any = 1.0, reduction: str = NONZERO, upstream: Any = None
) -> Answer:
    """`losses.compute_weighted_loss`."""
    losses = as_array(losses)
    x, w = wide(losses, losses.dtype), wide(weights, losses.dtype)
    up = wide(1.0 if upstream is None else upstream, losses.dtype)
    value, dx, dw = reduce(x, w, reduction, up)
    return Answer(value, {"losses": dx, "weights": dw})


def softmax_loss(
    onehot_labels: Any,
    logits: Any,
    weights: Any = 1.0,
    label_smoothing: Any = 0,
    reduction: str = NONZERO,
    upstream: Any = None,
) -> Answer:
    """`losses.softmax_cross_entropy`."""
    logits = as_array(logits)
    z = wide(logits, logits.dtype)
    labels = smooth(wide(onehot_labels, logits.dtype), label_smoothing)
    loss, dz, _ = per_example(labels, z, -1)
    return finish(loss, dz, weights, reduction, upstream, logits.dtype)


def sparse_loss(
    labels: Any, logits: Any, weights: Any = 1.0, reduction: str = NONZERO, upstream: Any = None
) -> Answer:
    """`losses.sparse_softmax_cross_entropy`, with its squeezing by difference of ranks."""
    logits, labels, weights = as_array(logits), as_array(labels), as_array(weights)
    shapes = {"logits": logits.shape, "weights": weights.shape}
    difference = logits.ndim - labels.ndim
    if difference == 0 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    elif difference == 2 and logits.shape[-1] == 1:
        logits = logits[..., 0]
    if weights.ndim == labels.ndim + 1:
        weights = weights[..., 0]
    answer = sparse(labels, logits)
    dz = answer.grads["logits"]
    answer = finish(answer.value, dz, weights, reduction, upstream, logits.dtype)
    answer.grads = {name: answer.grads[name].reshape(shape) for name, shape in shapes.items()}
    return answer


def finish(
    loss: np.ndarray, dz: np.ndarray, weights: Any, reduction: str, upstream: Any, dtype: Any
) -> Answer:
    """Weight and reduce per-example losses; carry the gradient back to the logits."""
    up = wide(1.0 if upstream is None else upstream, dtype)
    value, k, dw = reduce(loss, wide(weights, dtype), reduction, up)
    with np.errstate(invalid="ignore", over="ignore"):
        return Answer(value, {"logits": k[..., None] * dz, "weights": dw})


# --- how well a loss can be computed at all


def condition(labels: Any, logits: Any, axis: int = -1) -> np.ndarray:
    """sum_j |z_j dL/dz_j| / |L|: the relative condition number of each loss in its logits.

    Here dL/dz is the true derivative, softmax * sum(labels) - labels, of the loss; the logits are
    measured from their maximum, since adding a constant to them changes nothing and the
    subtraction of the maximum is part of the definition.
    """
    logits = as_array(logits)
    z = wide(logits, logits.dtype)
    lab = np.broadcast_to(wide(labels, logits.dtype), z.shape)
    p, cost = log_softmax(z, axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        loss = times(lab, cost, z).sum(axis)
        slope = p * lab.sum(axis, keepdims=True) - lab
        distance = z - z.max(axis, keepdims=True, initial=-np.inf)
        terms = np.where(slope == 0, 0, np.abs(slope * distance))
        return terms.sum(axis) / np.abs(loss)


FUNCTIONS: dict[str, Callable[..., Answer]] = {
    "nn.softmax_cross_entropy_with_logits": dense,
    "nn.softmax_cross_entropy_with_logits_v2": dense,
    "nn.sparse_softmax_cross_entropy_with_logits": sparse,
    "losses.softmax_cross_entropy": softmax_loss,
    "losses.sparse_softmax_cross_entropy": sparse_loss,
    "losses.compute_weighted_loss": compute_weighted_loss,
}
