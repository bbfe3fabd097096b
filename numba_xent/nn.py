r"""The functions of ``tf.nn``: one loss per example, over any class axis.

For logits :math:`z` and labels :math:`l` of one example,

.. math:: L = \sum_j l_j \bigl(\log \sum_k e^{z_k} - z_j\bigr),

computed from :math:`z_j - \max_k z_k`, so that it neither overflows nor depends on an offset. As in
TensorFlow, the gradient by the logits is :math:`\mathrm{softmax}(z) - l`, also for labels that do
not sum to 1. Use :func:`numba_xent.value_and_grad` for gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import (
    Array,
    as_array,
    as_axis,
    is_float,
    native,
    real_numbers,
    require_float,
)
from ._problem import Problem, entry_point

__all__ = [
    "softmax_cross_entropy_with_logits",
    "softmax_cross_entropy_with_logits_v2",
    "sparse_softmax_cross_entropy_with_logits",
]

_NO_LABEL_GRADIENT = (
    "no gradient flows into the labels of this function; use "
    "numba_xent.nn.softmax_cross_entropy_with_logits_v2, which has one"
)
_INTEGER_LABELS = (
    "integer labels have no gradient; the labels of "
    "numba_xent.nn.softmax_cross_entropy_with_logits_v2 have one"
)
_SPARSE_LABEL_DTYPES = frozenset(np.dtype(order + name) for order in "<>" for name in ("i4", "i8"))


class _NotGiven(int):
    """The default of ``dim``: -1 as TensorFlow documents it, and known from a -1 that is given."""


_DIM_NOT_GIVEN = _NotGiven(-1)


def dense_problem(labels: Any, logits: Any, axis: Any, names: tuple[str, str, str]) -> Problem:
    """Check labels and logits of one label per class.

    Parameters
    ----------
    labels, logits
        Array-likes of equal rank; every axis of the labels is as long as that of the logits, or 1.
    axis
        The class axis; None for the last.
    names
        What the caller calls labels, logits and axis.
    """
    label_array = as_array(labels, names[0])
    logit_array = as_array(logits, names[1])
    return dense_problem_of_arrays(label_array, logit_array, axis, names)


def dense_problem_of_arrays(
    labels: Array, logits: Array, axis: Any, names: tuple[str, str, str]
) -> Problem:
    """Like :func:`dense_problem`, for what already are arrays."""
    require_float(logits, names[1])
    differentiable = is_float(labels)
    labels = real_numbers(labels, names[0])
    rank = logits.ndim
    if rank == 0 or labels.ndim == 0:
        raise ValueError(
            f"{names[1]} and {names[0]} must have rank 1 or more, got shapes {logits.shape} and "
            f"{labels.shape}"
        )
    index = rank - 1 if axis is None else as_axis(axis, names[2], rank)
    if labels.shape != logits.shape and (
        labels.ndim != rank
        or any(own not in (1, n) for own, n in zip(labels.shape, logits.shape, strict=True))
    ):
        raise ValueError(
            f"{names[0]} must have the shape of {names[1]}, {logits.shape}, or length 1 where it is"
            f" to be broadcast, got shape {labels.shape}"
        )
    return Problem(native(logits), native(labels), False, index, label_gradient=differentiable)


def sparse_problem(labels: Array, logits: Array, names: tuple[str, str]) -> Problem:
    """Check labels that are class indices, and logits whose last axis is the class axis.

    Parameters
    ----------
    labels, logits
        Arrays; the labels have the shape of the logits without the class axis.
    names
        What the caller calls them.
    """
    shape = logits.shape
    if not shape:
        raise ValueError(f"{names[1]} cannot be a scalar, got shape ()")
    if labels.shape != shape[:-1]:
        rank = len(shape) - 1
        if labels.ndim != rank:
            raise ValueError(
                f"{names[0]} must have rank {rank}, one less than {names[1]} of shape "
                f"{shape}, got shape {labels.shape}"
            )
        raise ValueError(
            f"{names[0]} must have shape {shape[:-1]}, for {names[1]} of shape "
            f"{shape}, got shape {labels.shape}"
        )
    require_float(logits, names[1])
    if labels.dtype not in _SPARSE_LABEL_DTYPES:
        raise TypeError(f"{names[0]} must have dtype int32 or int64, got {labels.dtype}")
    if shape[-1] == 0:
        raise ValueError(f"{names[1]}: Must have at least one class, but got logits shape {shape}")
    return Problem(native(logits), native(labels), True, len(shape) - 1, label_gradient=False)


def _check_sentinel(sentinel: Any, function: str) -> None:
    if sentinel is not None:
        raise ValueError(
            f"_sentinel: Only call `{function}` with named arguments (labels=..., logits=..., ...)"
        )


def _check_given(labels: Any, logits: Any) -> None:
    if labels is None or logits is None:
        missing = [n for n, v in (("labels", labels), ("logits", logits)) if v is None]
        raise ValueError(
            f"Both labels and logits must be provided. {' and '.join(missing)} must not be None."
        )


@entry_point("logits", closed={"labels": _NO_LABEL_GRADIENT})
def softmax_cross_entropy_with_logits(
    _sentinel: None = None,
    labels: Any = None,
    logits: Any = None,
    dim: Any = _DIM_NOT_GIVEN,
    name: str | None = None,
    axis: Any = None,
) -> Problem:
    r"""Softmax cross-entropy between logits and labels, one loss per example.

    .. math:: L = \sum_j l_j \bigl(\log \sum_k e^{z_k} - z_j\bigr)

    Labels need not sum to 1; a class whose label is 0 adds nothing, even if its logit is -inf. No
    gradient flows into the labels.

    Parameters
    ----------
    _sentinel : None
        Stands in the way of positional arguments, as in TensorFlow.
    labels : array_like
        One label per class, of any numeric dtype. Of the rank of `logits`, each axis as long as
        theirs or of length 1, then it is broadcast.
    logits : array_like
        Unnormalised log-probabilities, float16, bfloat16, float32 or float64.
    dim : int, optional
        The class axis, the last by default.
    name : str, optional
        Ignored.
    axis : int, optional
        Another name for `dim`.

    Returns
    -------
    numpy.ndarray or scalar
        The losses, in nats: the shape of `logits` without the class axis, and their dtype. Halves
        are computed in float32 and rounded once.

    Raises
    ------
    ValueError
        If an argument is missing, a shape does not fit, the axis is out of range, both `dim` and
        `axis` are given, or `_sentinel` is.
    TypeError
        If a dtype or the kind of an argument is wrong.

    See Also
    --------
    softmax_cross_entropy_with_logits_v2 : The same, with a gradient by the labels.

    References
    ----------
    ``tf.compat.v1.nn.softmax_cross_entropy_with_logits`` of TensorFlow 2.3.

    Examples
    --------
    >>> import numba_xent as xent
    >>> xent.nn.softmax_cross_entropy_with_logits(labels=[[0.0, 0.0, 1.0]], logits=[[1.0, 2.0, 3.0]])
    array([0.40760598], dtype=float32)
    """
    if axis is not None:
        if dim is not None and dim is not _DIM_NOT_GIVEN:
            raise ValueError("Cannot specify both 'dim' and 'axis'.")
        dim = axis
    _check_sentinel(_sentinel, "softmax_cross_entropy_with_logits")
    _check_given(labels, logits)
    used = "dim" if axis is None else "axis"
    return dense_problem(labels, logits, dim, ("labels", "logits", used))


@entry_point("logits", "labels")
def softmax_cross_entropy_with_logits_v2(
    labels: Any, logits: Any, axis: Any = None, name: str | None = None, dim: Any = None
) -> Problem:
    r"""Softmax cross-entropy between logits and labels, with a gradient by both.

    The loss is that of :func:`softmax_cross_entropy_with_logits`. The gradient by a label is
    :math:`\log \sum_k e^{z_k} - z_j`, minus the log-softmax.

    Parameters
    ----------
    labels : array_like
        One label per class, of any numeric dtype. Of the rank of `logits`, each axis as long as
        theirs or of length 1, then it is broadcast.
    logits : array_like
        Unnormalised log-probabilities, float16, bfloat16, float32 or float64.
    axis : int, optional
        The class axis, the last by default.
    name : str, optional
        Ignored.
    dim : int, optional
        Another name for `axis`.

    Returns
    -------
    numpy.ndarray or scalar
        The losses, in nats: the shape of `logits` without the class axis, and their dtype.

    Raises
    ------
    ValueError
        If an argument is None, a shape does not fit, the axis is out of range, or both `axis` and
        `dim` are given.
    TypeError
        If a dtype or the kind of an argument is wrong.

    References
    ----------
    ``tf.compat.v1.nn.softmax_cross_entropy_with_logits_v2`` and
    ``tf.nn.softmax_cross_entropy_with_logits`` of TensorFlow 2.

    Examples
    --------
    >>> import numba_xent as xent
    >>> xent.nn.softmax_cross_entropy_with_logits_v2([[0.0, 1.0]], [[0.1, 0.8]])
    array([0.40318605], dtype=float32)

    The class axis can be any:

    >>> import numpy as np
    >>> logits = np.zeros((2, 4, 3))
    >>> labels = np.full((1, 4, 1), 0.25)
    >>> xent.nn.softmax_cross_entropy_with_logits_v2(labels, logits, axis=1).shape
    (2, 3)
    """
    if axis is not None and dim is not None:
        raise ValueError("Cannot specify both 'dim' and 'axis'.")
    used = "axis" if dim is None else "dim"
    return dense_problem(labels, logits, axis if dim is None else dim, ("labels", "logits", used))


@entry_point("logits", closed={"labels": _INTEGER_LABELS})
def sparse_softmax_cross_entropy_with_logits(
    _sentinel: None = None, labels: Any = None, logits: Any = None, name: str | None = None
) -> Problem:
    r"""Softmax cross-entropy for labels that are class indices, one loss per example.

    .. math:: L = \log \sum_k e^{z_k} - z_y

    The class axis is the last.

    Parameters
    ----------
    _sentinel : None
        Stands in the way of positional arguments, as in TensorFlow.
    labels : array_like of int32 or int64
        The class of each example: the shape of `logits` without the last axis.
    logits : array_like
        Unnormalised log-probabilities, float16, bfloat16, float32 or float64.
    name : str, optional
        Ignored.

    Returns
    -------
    numpy.ndarray or scalar
        The losses, in nats, of the shape of `labels` and the dtype of `logits`.

    Raises
    ------
    ValueError
        If an argument is missing, a shape does not fit, there are no classes, a label is not in
        ``[0, classes)``, or `_sentinel` is given.
    TypeError
        If a dtype is wrong.

    References
    ----------
    ``tf.compat.v1.nn.sparse_softmax_cross_entropy_with_logits`` of TensorFlow 2.3.

    Examples
    --------
    >>> import numba_xent as xent
    >>> xent.nn.sparse_softmax_cross_entropy_with_logits(labels=[2], logits=[[1.0, 2.0, 3.0]])
    array([0.40760598], dtype=float32)
    """
    _check_sentinel(_sentinel, "sparse_softmax_cross_entropy_with_logits")
    _check_given(labels, logits)
    return sparse_problem(
        as_array(labels, "labels"), as_array(logits, "logits"), ("labels", "logits")
    )
