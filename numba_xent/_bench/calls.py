"""Our own functions, each with everything that a call of it needs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import numba_xent as xent
from numba_xent._bench.cases import Task
from numba_xent._bench.operands import Operands

BROADCAST = "broadcast labels"
NONE = {"reduction": xent.losses.Reduction.NONE}
MEAN = {"reduction": xent.losses.Reduction.SUM_BY_NONZERO_WEIGHTS}
SMOOTHING = {"label_smoothing": 0.1}


def our_call(
    task: Task, operands: Operands, *, fresh: bool = False, broadcast: bool = False
) -> Callable[[], Any]:
    """Make a function without arguments that calls a function of ``nn``.

    Parameters
    ----------
    task : Task
        What to compute.
    operands : Operands
        Of what.
    fresh : bool, optional
        Whether each gradient gets memory of its own, as it does by default.
    broadcast : bool, optional
        Whether the labels of one example are used for all.

    Returns
    -------
    callable
        It returns the losses, or losses and gradient.
    """
    axis = task.case.axis
    function: Callable[..., Any]
    out = operands.gradient if task.gradient and not fresh else None
    if task.labels == "dense":
        labels = operands.broadcast if broadcast else operands.dense
        arguments = {"labels": labels, "logits": operands.logits, "axis": axis}
        function = xent.nn.softmax_cross_entropy_with_logits_v2
    else:
        # Where labels are indices, the last axis is that of the classes.
        arguments = {"labels": operands.sparse, "logits": np.moveaxis(operands.logits, axis, -1)}
        out = None if out is None else np.moveaxis(out, axis, -1)
        function = xent.nn.sparse_softmax_cross_entropy_with_logits
    return _call(function, arguments, out, gradient=task.gradient)


def our_call_with(option: str, task: Task, operands: Operands) -> Callable[[], Any]:
    """Make a function without arguments that makes use of an option.

    Parameters
    ----------
    option : str
        One of `cases.WITH_OPTION`.
    task : Task
        What to compute.
    operands : Operands
        Of what.

    Returns
    -------
    callable
        It calls a function of ``losses``, or, to broadcast labels, of ``nn``.
    """
    if option == BROADCAST:
        return our_call(task, operands, broadcast=True)
    weights: dict[str, Any] = {"weights": operands.weights}
    smoothing: dict[str, Any] = SMOOTHING if task.labels == "dense" else {}
    arguments: dict[str, Any] = {
        "weights": weights | NONE,
        "smoothing": smoothing | NONE,
        "mean": MEAN,
        "all": weights | smoothing | MEAN,
    }[option]
    return _loss(task, operands, arguments)


def our_call_without(option: str, task: Task, operands: Operands) -> Callable[[], Any]:
    """Make the function that `our_call_with` is compared with: the same without the option."""
    if option == BROADCAST:
        return our_call(task, operands)
    return _loss(task, operands, NONE)


def _loss(task: Task, operands: Operands, arguments: dict[str, Any]) -> Callable[[], Any]:
    function: Callable[..., Any]
    if task.labels == "dense":
        arguments = {"onehot_labels": operands.dense, **arguments}
        function = xent.losses.softmax_cross_entropy
    else:
        arguments = {"labels": operands.sparse, **arguments}
        function = xent.losses.sparse_softmax_cross_entropy
    out = operands.gradient if task.gradient else None
    return _call(function, {"logits": operands.logits, **arguments}, out, gradient=task.gradient)


def _call(
    function: Callable[..., Any], arguments: dict[str, Any], out: Any, *, gradient: bool
) -> Callable[[], Any]:
    if not gradient:
        return functools.partial(function, **arguments)
    return functools.partial(xent.value_and_grad(function), **arguments, out=out)
