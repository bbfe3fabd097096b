"""Where operands lie in memory does not show."""

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
import strategies as data
from calls import SOFTMAX_LOSS, SPARSE, SPARSE_LOSS, V1, V2, WEIGHTED
from comparing import both, layouts, near, reach, reductions, same_numbers, weights_for
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import EPS, LAYOUTS, Problem, assert_same_bits, bits

import numba_xent as xent


@given(data.problems(last_axis=True), layouts, layouts, st.integers(0, 4))
@settings(max_examples=300)
def test_layouts_of_nn(problem: Problem, one: Callable, two: Callable, seed: int) -> None:
    """The same bits wherever the operands lie, if the logits' axes keep their order in memory."""
    wrt = ("logits", "labels")
    upstream = weights_for(problem, seed)
    args = {"labels": problem.labels, "logits": problem.logits}
    moved = {"labels": one(problem.labels), "logits": two(problem.logits)}
    want = both(V2, **args, upstream=upstream, wrt=wrt)
    got = both(V2, **moved, upstream=one(upstream), wrt=wrt)
    sparse = both(SPARSE, labels=problem.classes, logits=problem.logits)
    sparse_moved = both(SPARSE, labels=one(problem.classes), logits=two(problem.logits))
    if two in data.REORDERED:
        near(sparse_moved[0], sparse[0], 2 * EPS[problem.dtype], reach(problem.logits))
        near(sparse_moved[1], sparse[1], 2 * EPS[problem.dtype])
        want = both(V2, **args, wrt=wrt)
        same_numbers(both(V2, **moved, wrt=wrt), want, problem.logits)
        return
    assert_same_bits(got[0], want[0])
    for a, b in zip(got[1], want[1], strict=True):
        assert_same_bits(a, b)
    assert_same_bits(sparse_moved[0], sparse[0])
    assert_same_bits(sparse_moved[1], sparse[1])


in_order = st.sampled_from([layout for layout in LAYOUTS if layout not in data.REORDERED])


@given(data.problems(last_axis=True), layouts, in_order, reductions)
def test_layouts_of_losses(problem: Problem, one: Callable, two: Callable, reduction: str) -> None:
    """Weights too may lie anywhere."""
    weights = weights_for(problem)
    plain = {"logits": problem.logits, "weights": weights}
    moved = {"logits": two(problem.logits), "weights": one(weights)}
    kwargs = {"reduction": reduction, "wrt": ("logits", "weights")}
    calls = [
        (SOFTMAX_LOSS, {"onehot_labels": problem.labels, "label_smoothing": 0.1}),
        (SPARSE_LOSS, {"labels": problem.classes}),
    ]
    for fn, rest in calls:
        want = both(fn, **plain, **rest, **kwargs)
        name = next(iter(rest))
        got = both(fn, **moved, **rest | {name: two(rest[name])}, **kwargs)
        assert_same_bits(got[0], want[0], fn.__name__)
        for a, b in zip(got[1], want[1], strict=True):
            assert_same_bits(a, b, fn.__name__)
    losses = V1(labels=problem.labels, logits=problem.logits)
    kwargs["wrt"] = ("losses", "weights")
    want = both(WEIGHTED, losses=losses, weights=weights, **kwargs)
    got = both(WEIGHTED, losses=one(np.asarray(losses)), weights=two(weights), **kwargs)
    assert_same_bits(got[0], want[0])
    for a, b in zip(got[1], want[1], strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("layout", [f for f in LAYOUTS if f not in data.REORDERED])
@pytest.mark.parametrize("shape", [(50, 2), (9, 8, 2), (40, 3, 2), (6, 5, 4, 3, 10)], ids=str)
def test_layouts_of_a_sum(shape: tuple[int, ...], layout: Callable) -> None:
    """A batch of several axes is summed in one order, whether its axes are gapless or not."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        logits = rng.normal(size=shape) * 20
        labels = data.soft(rng, shape, len(shape) - 1)
        kwargs = {"weights": rng.uniform(0.5, 2, shape[:-1]), "reduction": oracle.SUM}
        want = SOFTMAX_LOSS(labels, logits, **kwargs)
        assert_same_bits(SOFTMAX_LOSS(layout(labels), layout(logits), **kwargs), want)


@given(data.problems(), st.data())
def test_broadcast_labels(problem: Problem, choose: st.DataObject) -> None:
    """Labels of size 1 in some dimensions, and strides of 0, are the same as labels in full.

    The gradient of broadcast labels is the sum of the full one.
    """
    ones = choose.draw(st.lists(st.booleans(), min_size=problem.logits.ndim, max_size=5))
    small = problem.labels[
        tuple(slice(0, 1) if one else slice(None) for one in ones[: problem.logits.ndim])
    ]
    full = np.broadcast_to(small, problem.logits.shape)
    kwargs = {"logits": problem.logits, "axis": problem.axis, "wrt": ("logits", "labels")}
    want = both(V2, labels=full.copy(), **kwargs)
    for labels in (small, full):
        got = both(V2, labels=labels, **kwargs)
        assert_same_bits(got[0], want[0])
        assert_same_bits(got[1][0], want[1][0])
    assert_same_bits(got[1][1], want[1][1])
    summed = both(V2, labels=small, **kwargs)[1][1]
    axes = tuple(i for i, n in enumerate(small.shape) if n == 1)
    wide = want[1][1].astype(np.float64)
    total = wide.sum(axes, keepdims=True)
    scale = 1 + np.abs(wide).sum(axes, keepdims=True)
    # A float16 has no room for some of these sums; their rounding is inf.
    fits = np.abs(total) + 4 * EPS[problem.dtype] * scale < float(
        ml_dtypes.finfo(problem.dtype).max
    )
    near(summed[fits], total[fits], 4 * EPS[problem.dtype], scale[fits])
    assert (np.isinf(summed[~fits]) | (np.abs(total[~fits]) < 70_000)).all()


@given(data.problems())
def test_zero_stride_logits(problem: Problem) -> None:
    """One example, repeated without copies, gives the same bits again and again."""
    labels, logits = problem.moved()
    row = (0,) * (logits.ndim - 1)
    repeated = np.broadcast_to(logits[row], (5, logits.shape[-1]))
    same_labels = np.broadcast_to(labels[row], repeated.shape)
    want, want_grad = both(V2, labels=labels[row], logits=logits[row])
    got, got_grad = both(V2, labels=same_labels, logits=repeated)
    for i in range(5):
        assert_same_bits(got[i], want)
        assert_same_bits(got_grad[i], want_grad)
    flat = np.broadcast_to(logits[row][:1], repeated.shape)
    assert_same_bits(V2(same_labels, flat), V2(same_labels.copy(), flat.copy()))


def test_inputs_are_never_written() -> None:
    """Every public function leaves every argument as it was."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    labels = data.soft(rng, (6, 4), 1).astype(np.float32)
    classes = rng.integers(0, 4, 6)
    weights = rng.uniform(size=6).astype(np.float32)
    losses = rng.normal(size=6).astype(np.float32)
    calls: list[tuple[Callable, dict[str, Any], tuple[str, ...]]] = [
        (V1, {"labels": labels, "logits": logits}, ("logits",)),
        (V2, {"labels": labels, "logits": logits}, ("logits", "labels")),
        (V2, {"labels": labels[:1], "logits": logits}, ("logits", "labels")),
        (SPARSE, {"labels": classes, "logits": logits}, ("logits",)),
        (WEIGHTED, {"losses": losses, "weights": weights}, ("losses", "weights")),
    ]
    for weight in (weights, weights[:1], np.asarray(2.0, np.float32)):
        dense = {"onehot_labels": labels, "logits": logits, "weights": weight}
        wrt = ("logits", "weights")
        calls.append((SOFTMAX_LOSS, dense, wrt))
        calls.append((SOFTMAX_LOSS, dense | {"label_smoothing": 0.1}, wrt))
        calls.append((SPARSE_LOSS, {"labels": classes, "logits": logits, "weights": weight}, wrt))
        column = classes[:, None]
        calls.append((SPARSE_LOSS, {"labels": column, "logits": logits, "weights": weight}, wrt))
    for fn, kwargs, wrt in calls:
        for reduction in (
            oracle.REDUCTIONS if "reduction" in inspect.signature(fn).parameters else (None,)
        ):
            more = {} if reduction is None else {"reduction": reduction}
            value = fn(**kwargs, **more)
            for i, layout in itertools.product(range(2), (np.copy, data.fortran, data.sliced)):
                given = {
                    name: layout(a) if isinstance(a, np.ndarray) else a
                    for name, a in kwargs.items()
                }
                upstream = layout(np.asarray(np.ones_like(value)))
                before = [bits(a) for a in (*given.values(), upstream)]
                if i:
                    xent.value_and_grad(fn, wrt=wrt)(**given, **more, upstream=upstream)
                else:
                    fn(**given, **more)
                after = [bits(a) for a in (*given.values(), upstream)]
                np.testing.assert_equal(after, before, err_msg=fn.__name__)
