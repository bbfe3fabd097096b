"""Gradients are slopes, and losses are what nn returns and a reduction."""

from collections.abc import Callable

import numpy as np
import oracle
import strategies as data
from calls import SOFTMAX_LOSS, SPARSE, SPARSE_LOSS, V1, V2, WEIGHTED
from comparing import both, near, reductions, weights_for
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import EPS, Problem, assert_same_bits


def slope(loss: Callable, x: np.ndarray, direction: np.ndarray) -> float:
    """The derivative of a scalar function of x in a direction: central differences, refined."""

    def difference(h: float) -> float:
        return float(loss(x + h * direction) - loss(x - h * direction)) / (2 * h)

    return (4 * difference(2.0**-11) - difference(2.0**-10)) / 3


F64_MILD = {"dtypes": (np.dtype(np.float64),), "kinds": (data.normal, data.tied, data.offset)}


@given(data.problems(**F64_MILD, max_size=500), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_gradients_are_slopes(problem: Problem, seed: int) -> None:
    """Finite differences in float64, for labels that sum to 1.

    Otherwise TensorFlow's gradient in the logits is not the derivative.
    """
    rng = np.random.default_rng(seed)
    upstream = rng.normal(size=problem.classes.shape)
    args = {"labels": problem.labels, "logits": problem.logits}
    _, grads = both(V2, **args, axis=problem.axis, upstream=upstream, wrt=("logits", "labels"))
    for name, grad in zip(("logits", "labels"), grads, strict=True):
        direction = rng.normal(size=args[name].shape)

        def loss(x: np.ndarray, name: str = name) -> float:
            return (V2(**args | {name: x}, axis=problem.axis) * upstream).sum()

        # The differences lose the digits of a loss of size `scale`, divided by the step.
        scale = np.abs(upstream).sum() * (300 + np.abs(direction).sum())
        near(slope(loss, args[name], direction), (grad * direction).sum(), 1e-11, scale)


@given(
    data.problems(**F64_MILD, max_size=500, last_axis=True),
    reductions,
    st.sampled_from((0, 0.1, 1.0)),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_gradients_of_losses_are_slopes(
    problem: Problem, reduction: str, smoothing: float, seed: int
) -> None:
    """The same through weights, smoothing and each reduction, for logits, weights and losses."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2, problem.classes.shape)
    upstream = np.float64(1.7)
    if reduction == oracle.NONE:
        upstream = rng.normal(size=problem.classes.shape)
    calls = [
        (
            SOFTMAX_LOSS,
            {
                "onehot_labels": problem.labels,
                "logits": problem.logits,
                "label_smoothing": smoothing,
            },
            ("logits", "weights"),
        ),
        (
            SPARSE_LOSS,
            {"labels": problem.classes, "logits": problem.logits},
            ("logits", "weights"),
        ),
        (WEIGHTED, {"losses": rng.normal(size=problem.classes.shape)}, ("losses", "weights")),
    ]
    for fn, kwargs, wrt in calls:
        kwargs |= {"weights": weights, "reduction": reduction}
        _, grads = both(fn, **kwargs, upstream=upstream, wrt=wrt)
        for name, grad in zip(wrt, grads, strict=True):
            direction = rng.normal(size=np.shape(kwargs[name]))
            if name == "weights":
                direction /= 1 + np.abs(direction).max()  # no weight may become 0

            def loss(
                x: np.ndarray, fn: Callable = fn, kwargs: dict = kwargs, name: str = name
            ) -> float:
                return (fn(**kwargs | {name: x}) * upstream).sum()

            scale = (1 + np.abs(upstream).sum() * weights.sum()) * (300 + np.abs(direction).sum())
            near(slope(loss, kwargs[name], direction), (grad * direction).sum(), 1e-11, scale)


@given(data.problems(last_axis=True), reductions, st.integers(0, 2**32 - 1))
def test_losses_are_nn_and_a_reduction(problem: Problem, reduction: str, seed: int) -> None:
    """Both ways to the same number agree, in value and gradient."""
    rng = np.random.default_rng(seed)
    weights = weights_for(problem, seed)
    upstream = rng.uniform(0.5, 2, weights.shape if reduction == oracle.NONE else ())
    upstream = upstream.astype(problem.dtype)
    kwargs = {"weights": weights, "reduction": reduction, "upstream": upstream}
    for fn, one, labels in (
        (SOFTMAX_LOSS, V1, {"onehot_labels": problem.labels}),
        (SPARSE_LOSS, SPARSE, {"labels": problem.classes}),
    ):
        (label,) = labels.values()
        losses = one(labels=label, logits=problem.logits)
        value, (dlogits, dweights) = both(
            fn, **labels, logits=problem.logits, **kwargs, wrt=("logits", "weights")
        )
        value2, (dlosses, dweights2) = both(
            WEIGHTED, losses=losses, **kwargs, wrt=("losses", "weights")
        )
        _, dlogits2 = both(one, labels=label, logits=problem.logits, upstream=dlosses)
        # The second way rounds the losses and their gradient to the dtype on the way.
        eps = 4 * EPS[problem.dtype]
        size = np.abs(losses.astype(np.float64)).max(initial=0) * (
            np.abs(weights.astype(np.float64)).sum()
            if reduction in (oracle.SUM, oracle.MEAN)
            else 4
        )
        near(value, value2, eps, 1 + size)
        near(dlogits, dlogits2, eps, 1 + np.abs(dlosses.astype(np.float64)).max(initial=0))
        near(dweights, dweights2, eps, 1 + 2 * np.abs(losses.astype(np.float64)).max(initial=0))


@given(data.problems(last_axis=True), st.integers(0, 2**32 - 1))
def test_sum_with_upstream_is_nn_with_upstream(problem: Problem, seed: int) -> None:
    """No weighting is left: the gradients have the same bits."""
    rng = np.random.default_rng(seed)
    up = problem.dtype.type(rng.uniform(0.5, 2))
    ups = np.full(problem.classes.shape, up)
    for reduction, upstream in ((oracle.SUM, up), (oracle.NONE, ups)):
        kwargs = {"logits": problem.logits, "upstream": upstream}
        _, loss_grad = both(
            SOFTMAX_LOSS, onehot_labels=problem.labels, reduction=reduction, **kwargs
        )
        _, grad = both(V1, labels=problem.labels, logits=problem.logits, upstream=ups)
        assert_same_bits(loss_grad, grad)
        _, loss_grad = both(SPARSE_LOSS, labels=problem.classes, reduction=reduction, **kwargs)
        _, grad = both(SPARSE, labels=problem.classes, logits=problem.logits, upstream=ups)
        assert_same_bits(loss_grad, grad)
