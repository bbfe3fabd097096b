"""The backward pass, fused with the forward: ``value_and_grad``, as JAX and MLX name it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ._arrays import shown
from ._problem import REGISTRY

__all__ = ["value_and_grad"]


def _describe(fn: Callable[..., Any]) -> str:
    return f"{fn.__module__}.{fn.__qualname__}"


def _check_wrt(fn: Callable[..., Any], wrt: Any) -> tuple[str, ...]:
    """The names to differentiate by, if there is a gradient by each."""
    names = wrt if isinstance(wrt, tuple) else (wrt,)
    known = REGISTRY[fn]
    for name in names:
        if type(name) is not str:
            raise TypeError(f"wrt must be an argument name or a tuple of them, got {shown(wrt)}")
        if name in known.closed:
            raise ValueError(f"wrt: {known.closed[name]} (got {name!r} for {_describe(fn)})")
        if name not in known.wrt:
            raise ValueError(f"wrt must be of {known.wrt} for {_describe(fn)}, got {name!r}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"wrt must name each argument once, and at least one, got {wrt!r}")
    return names


def value_and_grad(
    fn: Callable[..., Any], wrt: str | tuple[str, ...] = "logits"
) -> Callable[..., Any]:
    r"""Make a function that returns the value of a loss function and its gradient.

    Both come from one pass over memory: no probabilities, smoothed labels or weighted copies are
    stored.

    Parameters
    ----------
    fn : callable
        One of the functions of :mod:`numba_xent.nn`, or ``softmax_cross_entropy``,
        ``sparse_softmax_cross_entropy`` or ``compute_weighted_loss`` of
        :mod:`numba_xent.losses`.
    wrt : str or tuple of str, optional
        The argument, or arguments, to differentiate by: ``"logits"``; ``"labels"``
        (``softmax_cross_entropy_with_logits_v2`` only); ``"weights"`` (functions of
        :mod:`numba_xent.losses`); ``"losses"`` (``compute_weighted_loss``).

    Returns
    -------
    callable
        A function with the arguments of `fn` and two more keywords, which returns
        ``(value, gradient)``, or ``(value, (gradient, ...))`` if `wrt` is a tuple.

        ``upstream`` multiplies the gradient; it has the shape of the value, and is 1 by default.

        ``out`` is an array, or a tuple of arrays or None, that receives the gradient and is
        returned. It has the shape and dtype of the argument. ``out=logits`` overwrites the logits
        in place. Where it overlaps anything else that is read, the gradient is computed elsewhere
        and copied. Nothing is written if the call raises.

        A gradient has the dtype of its argument. It is None for an argument of integers or
        booleans.

    Raises
    ------
    TypeError
        If `fn` is another function, or `wrt` is not a name.
    ValueError
        If there is no gradient by that argument.

    Notes
    -----
    As in TensorFlow, the gradient by the logits of the loss of one example is
    :math:`\mathrm{softmax}(z) - l`, also for labels :math:`l` that do not sum to 1.

    References
    ----------
    The convention is that of ``jax.value_and_grad``.

    Examples
    --------
    >>> import numpy as np
    >>> import numba_xent as xent
    >>> loss_and_grad = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)
    >>> logits = np.array([[1.0, 2.0, 3.0]], np.float32)
    >>> loss, gradient = loss_and_grad([2], logits)
    >>> gradient
    array([[ 0.09003057,  0.24472848, -0.33475906]], dtype=float32)
    """
    if not callable(fn) or not _is_known(fn):
        allowed = ", ".join(_describe(known) for known in REGISTRY)
        raise TypeError(f"fn must be one of {allowed}; got {shown(fn)}")
    return _differentiate(fn, _check_wrt(fn, wrt), not isinstance(wrt, tuple))


def _is_known(fn: Callable[..., Any]) -> bool:
    try:
        return fn in REGISTRY
    except Exception:  # noqa: BLE001 - callable, but not hashable
        return False


@functools.cache
def _differentiate(
    fn: Callable[..., Any], names: tuple[str, ...], single: bool
) -> Callable[..., Any]:
    """The function that :func:`value_and_grad` returns; made once, as it is often asked for."""
    plan = REGISTRY[fn].plan

    @functools.wraps(fn)
    def function(*args: Any, upstream: Any = None, out: Any = None, **kwargs: Any) -> Any:
        call = plan(*args, **kwargs)
        if single:
            value, (gradient,) = call.value_and_gradients(names, upstream, (out,))
            return value, gradient
        if out is None:
            out = (None,) * len(names)
        elif not isinstance(out, tuple):
            raise TypeError(f"out must be a tuple of {len(names)}, got {type(out).__name__}")
        if len(out) != len(names):
            raise ValueError(f"out must be a tuple of {len(names)}, got {len(out)}")
        return call.value_and_gradients(names, upstream, out)

    signature = inspect.signature(fn)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in ("upstream", "out")
    ]
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *more]
    )
    function.__name__ = f"value_and_grad_of_{fn.__name__}"
    return function
