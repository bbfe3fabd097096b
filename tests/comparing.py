"""What the property tests compare, and how nearly equal is equal."""

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
from hypothesis import strategies as st
from strategies import EPS, LAYOUTS, Problem

import numba_xent as xent

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
reductions = st.sampled_from(oracle.REDUCTIONS)
layouts = st.sampled_from(LAYOUTS)


def both(fn: Callable, *, wrt: Any = "logits", **kwargs: Any) -> tuple[np.ndarray, Any]:
    """Value and gradient."""
    return xent.value_and_grad(fn, wrt=wrt)(**kwargs)


def weights_for(problem: Problem, seed: int = 0) -> np.ndarray:
    """Weights of the shape of the losses, some of them 0, whose sum is not near 0."""
    outer = problem.classes.shape
    rng = np.random.default_rng(seed)
    return np.asarray(rng.integers(0, 4, outer) * rng.uniform(0.5, 2, outer), problem.dtype)


def near(got: Any, want: Any, eps: float, scale: Any = 1.0) -> None:
    """Assert |got - want| <= eps * scale, elementwise."""
    got, want = (np.asarray(a).astype(np.float64) for a in (got, want))
    assert got.shape == want.shape
    with np.errstate(invalid="ignore"):  # equal infinities have no difference
        error = np.where((got == want) | (np.isnan(got) & np.isnan(want)), 0, np.abs(got - want))
    assert (error <= eps * scale).all(), f"{error.max()} > {eps} * {np.max(scale)}"


def reach(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    """How far the logits of each example are from their maximum, and at least 1.

    The rounding errors of a loss are proportional to it.
    """
    z = logits.astype(np.float64)
    return 1 + np.log(z.shape[axis]) + (z.max(axis) - z.min(axis))


def same_numbers(got: tuple[Any, Any], want: tuple[Any, Any], logits: np.ndarray) -> None:
    """Assert that values and gradients differ by the order of summation alone.

    The classes are last; the gradients are those by logits and labels. A half is rounded once
    more, and may round the other way.
    """
    eps, scale = 2 * EPS[logits.dtype], reach(logits)
    near(got[0], want[0], eps, scale)
    near(got[1][0], want[1][0], eps)
    near(got[1][1], want[1][1], eps, scale[..., None])
