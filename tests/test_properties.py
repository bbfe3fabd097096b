"""What must hold for every problem: symmetries, and one call is as good as several."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import oracle
import pytest
import strategies as data
from calls import SOFTMAX_LOSS, SPARSE, SPARSE_LOSS, V1, V2, WEIGHTED
from comparing import FLOATS, both, near, reach, reductions, same_numbers, weights_for
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import EPS, Problem, assert_same_bits

# --- symmetries


@given(data.problems(FLOATS), st.integers(-4096, 4096), st.integers(0, 100))
def test_a_constant_per_example_changes_nothing(problem: Problem, shift: int, seed: int) -> None:
    """Logits on a grid of 1/256 and whole shifts: every sum is exact, so nothing may be lost."""
    grid = np.round(np.clip(problem.logits.astype(np.float64), -500, 500) * 256) / 256
    rng = np.random.default_rng(seed)
    shifts = shift + rng.integers(-100, 100, problem.classes.shape)
    moved = grid + np.expand_dims(shifts, problem.axis)
    a, b = grid.astype(problem.dtype), moved.astype(problem.dtype)
    assert np.array_equal(a, grid)
    assert np.array_equal(b, moved)
    kwargs = {"labels": problem.labels, "axis": problem.axis}
    value, grad = both(V2, logits=a, **kwargs)
    value_moved, grad_moved = both(V2, logits=b, **kwargs)
    near(value_moved, value, 2 * EPS[problem.dtype], reach(a, problem.axis))
    near(grad_moved, grad, 2 * EPS[problem.dtype])


@given(data.problems(FLOATS), st.integers(0, 2**32 - 1))
def test_permuting_classes_permutes_the_gradient(problem: Problem, seed: int) -> None:
    """Classes have no order: only the order of the sum changes."""
    order = np.random.default_rng(seed).permutation(problem.logits.shape[problem.axis])
    mixed = [np.take(a, order, problem.axis) for a in (problem.labels, problem.logits)]
    value, grads = both(
        V2,
        labels=problem.labels,
        logits=problem.logits,
        axis=problem.axis,
        wrt=("logits", "labels"),
    )
    value_mixed, grads_mixed = both(
        V2, labels=mixed[0], logits=mixed[1], axis=problem.axis, wrt=("logits", "labels")
    )
    eps, scale = 2 * EPS[problem.dtype], reach(problem.logits, problem.axis)
    near(value_mixed, value, eps, scale)
    near(grads_mixed[0], np.take(grads[0], order, problem.axis), eps)
    near(
        grads_mixed[1],
        np.take(grads[1], order, problem.axis),
        eps,
        np.expand_dims(scale, problem.axis),
    )


@given(data.problems(FLOATS), st.integers(0, 2**32 - 1))
def test_permuting_classes_of_sparse_labels(problem: Problem, seed: int) -> None:
    """The class numbers follow the permutation."""
    _, logits = problem.moved()
    order = np.random.default_rng(seed).permutation(logits.shape[-1])
    place = np.argsort(order).astype(problem.classes.dtype)
    value, grad = both(SPARSE, labels=problem.classes, logits=logits)
    value_mixed, grad_mixed = both(
        SPARSE, labels=np.asarray(place[problem.classes]), logits=logits[..., order]
    )
    eps = 2 * EPS[problem.dtype]
    near(value_mixed, value, eps, reach(logits))
    near(grad_mixed, grad[..., order], eps)


@given(data.problems())
def test_any_axis_is_the_last_axis_of_a_moved_view(problem: Problem) -> None:
    """Bit for bit, for each spelling of the axis."""
    rank = problem.logits.ndim
    views = [np.moveaxis(a, problem.axis, -1) for a in (problem.labels, problem.logits)]
    wrt = ("logits", "labels")
    value, grads = both(V2, labels=views[0], logits=views[1], wrt=wrt)
    back = [np.moveaxis(grad, -1, problem.axis) for grad in grads]
    kwargs = {"labels": problem.labels, "logits": problem.logits}
    for axis in (problem.axis, problem.axis - rank, np.int64(problem.axis)):
        for spelling in ({"axis": axis}, {"dim": axis}):
            value_axis, grads_axis = both(V2, **kwargs, **spelling, wrt=wrt)
            assert_same_bits(value_axis, value, "axis")
            for got, want in zip(grads_axis, back, strict=True):
                assert_same_bits(got, want, "axis")
            value_v1, grad_v1 = both(V1, **kwargs, **spelling)
            assert_same_bits(value_v1, value, "v1")
            assert_same_bits(grad_v1, back[0], "v1")


@given(data.problems())
def test_any_axis_is_the_last_axis_of_a_moved_copy(problem: Problem) -> None:
    """The same but for the order of summation."""
    labels, logits = problem.moved()
    wrt = ("logits", "labels")
    moved = both(V2, labels=labels, logits=logits, wrt=wrt)
    value, grads = both(
        V2, labels=problem.labels, logits=problem.logits, axis=problem.axis, wrt=wrt
    )
    same_numbers((value, [np.moveaxis(a, problem.axis, -1) for a in grads]), moved, logits)


@given(data.problems())
def test_sparse_is_dense_one_hot(problem: Problem) -> None:
    """Class numbers mean one-hot labels."""
    _, logits = problem.moved()
    onehot = oracle.one_hot(problem.classes, logits.shape[-1]).astype(problem.dtype)
    dense, sparse = (
        both(V1, labels=onehot, logits=logits),
        both(SPARSE, labels=problem.classes, logits=logits),
    )
    # A half is rounded once more, and may round the other way.
    eps = EPS[problem.dtype] * 2
    near(sparse[0], dense[0], eps, reach(logits))
    near(sparse[1], dense[1], eps)


@given(data.problems(FLOATS), st.floats(0, 1))
def test_gradient_sums_over_classes(problem: Problem, total: float) -> None:
    """Softmax - labels sums to 1 - sum(labels), times the upstream gradient."""
    labels = (problem.labels * total).astype(problem.dtype)
    upstream = weights_for(problem, 1)
    _, grad = both(V2, labels=labels, logits=problem.logits, axis=problem.axis, upstream=upstream)
    wide = grad.astype(np.float64).sum(problem.axis)
    want = upstream.astype(np.float64) * (1 - labels.astype(np.float64).sum(problem.axis))
    # Each entry has its own rounding error, of half an ulp of at most 1, times the upstream.
    n = grad.shape[problem.axis]
    near(wide, want, 2 * EPS[problem.dtype] * np.sqrt(n), 1 + upstream.astype(np.float64))


# --- one call or several


@given(data.problems(last_axis=True), reductions)
def test_the_value_does_not_depend_on_the_gradient(problem: Problem, reduction: str) -> None:
    """The same bits alone, with any of the gradients, and with all of them."""
    labels, logits = {"labels": problem.labels}, {"logits": problem.logits}
    classes, weights = {"labels": problem.classes}, weights_for(problem)
    weighted = logits | {"weights": weights, "reduction": reduction}
    onehot = {"onehot_labels": problem.labels, "label_smoothing": 0.1}
    losses = {"losses": np.asarray(V1(**labels, **logits))}
    calls: list[tuple[Callable, dict[str, Any], tuple[str, ...]]] = [
        (V1, labels | logits, ("logits",)),
        (V2, labels | logits, ("logits", "labels")),
        (SPARSE, classes | logits, ("logits",)),
        (SOFTMAX_LOSS, onehot | weighted, ("logits", "weights")),
        (SPARSE_LOSS, classes | weighted, ("logits", "weights")),
        (WEIGHTED, losses | {"weights": weights, "reduction": reduction}, ("losses", "weights")),
    ]
    for fn, kwargs, names in calls:
        alone = fn(**kwargs)
        for wrt in (*names, names):
            assert_same_bits(both(fn, **kwargs, wrt=wrt)[0], alone, f"{fn.__name__} {wrt}")


@given(data.problems(last_axis=True, max_rank=3), st.data())
def test_a_batch_in_pieces(problem: Problem, choose: st.DataObject) -> None:
    """No example sees its neighbours: the bits are those of any part of the batch."""
    assume(problem.logits.ndim > 1)
    n = problem.logits.shape[0]
    cut = choose.draw(st.integers(0, n))
    args = {"labels": problem.labels, "logits": problem.logits}
    wrt = ("logits", "labels")
    value, grads = both(V2, **args, wrt=wrt)
    sparse, sparse_grad = both(SPARSE, labels=problem.classes, logits=problem.logits)
    for part in (slice(0, cut), slice(cut, n)):
        piece, piece_grads = both(V2, **{k: a[part] for k, a in args.items()}, wrt=wrt)
        assert_same_bits(piece, value[part])
        for got, want in zip(piece_grads, grads, strict=True):
            assert_same_bits(got, want[part])
        piece, piece_grad = both(SPARSE, labels=problem.classes[part], logits=args["logits"][part])
        assert_same_bits(piece, sparse[part])
        assert_same_bits(piece_grad, sparse_grad[part])


def every_result(problem: Problem) -> list[tuple[str, Any]]:
    """Values and gradients of each function on one problem, named."""
    labels, logits = problem.moved()
    found = [
        ("v2", *both(V2, labels=problem.labels, logits=problem.logits, axis=problem.axis)),
        ("v2 labels", *both(V2, labels=labels, logits=logits, wrt="labels")),
        ("sparse", *both(SPARSE, labels=problem.classes, logits=logits)),
    ]
    weights = weights_for(problem)
    for reduction in oracle.REDUCTIONS:
        kwargs = {"logits": logits, "weights": weights, "reduction": reduction}
        wrt = ("logits", "weights")
        dense = both(SOFTMAX_LOSS, onehot_labels=labels, label_smoothing=0.1, wrt=wrt, **kwargs)
        sparse = both(SPARSE_LOSS, labels=problem.classes, wrt=wrt, **kwargs)
        found += [(f"dense {reduction}", dense[0], *dense[1])]
        found += [(f"sparse {reduction}", sparse[0], *sparse[1])]
    return found


BIG = [
    ((70_000, 16), 1, np.float32),
    ((1200, 1000), 1, np.float32),
    ((3, 400_000), 1, np.float32),
    ((4, 300, 1000), 1, np.float32),
    ((1_100_000, 1), 0, np.float32),
    ((1, 1_500_000), 1, np.float64),
    ((1100, 1000), 1, np.float16),
]


@pytest.mark.parametrize(("shape", "axis", "dtype"), BIG)
def test_threads_do_not_show_when_big(shape: tuple, axis: int, dtype: type) -> None:
    """Above a million logits, where the work is shared out: the same bits from 1 and 2 threads."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(shape, np.float32).astype(dtype)
    labels = data.hard(rng, shape, axis).astype(dtype)
    outer = shape[:axis] + shape[axis + 1 :]
    classes = np.asarray(rng.integers(0, shape[axis], outer), np.int32)
    check_threads(Problem(labels, logits, classes, axis))


@given(data.problems())
@settings(max_examples=30)
def test_threads_do_not_show_when_small(problem: Problem) -> None:
    """The same bits from 1 and 2 threads."""
    check_threads(problem)


def check_threads(problem: Problem) -> None:
    """Compare every result of 1 thread with that of 2."""
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        serial = every_result(problem)
        numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
        parallel = every_result(problem)
    finally:
        numba.set_num_threads(before)
    for (name, *one), (_, *two) in zip(serial, parallel, strict=True):
        for got, want in zip(two, one, strict=True):
            assert_same_bits(got, want, name)
