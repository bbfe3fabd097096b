"""What must hold for every problem, whatever its numbers, shape, axis, dtype and memory."""

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numba
import numpy as np
import oracle
import pytest
import strategies as data
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import EPS, LAYOUTS, Problem, assert_same_bits, bits

import numba_xent as xent

V1 = xent.nn.softmax_cross_entropy_with_logits
V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SPARSE = xent.nn.sparse_softmax_cross_entropy_with_logits
SOFTMAX_LOSS = xent.losses.softmax_cross_entropy
SPARSE_LOSS = xent.losses.sparse_softmax_cross_entropy
WEIGHTED = xent.losses.compute_weighted_loss
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


# --- gradients


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


# --- memory


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


# --- out


@given(data.problems(), st.sampled_from(data.WRITABLE_LAYOUTS), st.booleans())
@settings(max_examples=250)
def test_out_in_any_layout(problem: Problem, layout: Callable, sparse: bool) -> None:
    """The gradient goes into `out` wherever that lies, with the bits of a fresh array."""
    _, logits = problem.moved()
    if sparse:
        fn, kwargs = SPARSE, {"labels": problem.classes, "logits": logits}
    else:
        fn, kwargs = V2, {"labels": problem.labels, "logits": problem.logits, "axis": problem.axis}
    want = both(fn, **kwargs)
    out = layout(np.full_like(kwargs["logits"], 7))
    value, grad = xent.value_and_grad(fn)(**kwargs, out=out)
    assert grad is out
    assert_same_bits(value, want[0])
    assert_same_bits(out, want[1])


@given(data.problems(), layouts, st.booleans())
@settings(max_examples=250)
def test_out_in_place(problem: Problem, layout: Callable, sparse: bool) -> None:
    """`out=logits` is the in-place update, in every layout that can be written."""
    assume(layout is not data.read_only)
    labels, logits = problem.moved()
    if sparse:
        fn, kwargs = SPARSE, {"labels": problem.classes}
    else:
        fn, kwargs = V2, {"labels": labels}
    inout = layout(logits)
    want = both(fn, **kwargs, logits=inout)
    value, grad = xent.value_and_grad(fn)(**kwargs, logits=inout, out=inout)
    assert grad is inout
    assert_same_bits(value, want[0])
    assert_same_bits(grad, want[1])


@given(data.problems(last_axis=True), reductions)
def test_out_in_place_of_losses(problem: Problem, reduction: str) -> None:
    """In place through a weighted loss; both gradients at once."""
    weights = weights_for(problem)
    kwargs = {"weights": weights, "reduction": reduction, "wrt": ("logits", "weights")}
    args = {"onehot_labels": problem.labels, "label_smoothing": 0.1}
    want = both(SOFTMAX_LOSS, logits=problem.logits, **args, **kwargs)
    inout, out_weights = problem.logits.copy(), np.full_like(weights, 7)
    kwargs.pop("wrt")
    value, grads = xent.value_and_grad(SOFTMAX_LOSS, wrt=("logits", "weights"))(
        logits=inout, **args, **kwargs, out=(inout, out_weights)
    )
    assert grads[0] is inout
    assert grads[1] is out_weights
    assert_same_bits(value, want[0])
    assert_same_bits(inout, want[1][0])
    assert_same_bits(out_weights, want[1][1])


def right_or_refused(
    fn: Callable, kwargs: dict[str, Any], out: np.ndarray, want: tuple[Any, Any]
) -> bool:
    """Call with an overlapping `out`: the right answer, or ValueError naming `out`, untouched."""
    before = bits(out)
    try:
        value, grad = xent.value_and_grad(fn)(**kwargs, out=out)
    except ValueError as error:
        assert "out" in str(error)  # noqa: PT017
        assert np.array_equal(bits(out), before)
        return False
    assert_same_bits(value, want[0], "value")
    assert_same_bits(grad, want[1], "gradient")
    return True


@pytest.mark.parametrize("shape", [(5, 4), (7, 33), (40, 10), (3, 5000), (300, 300)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("step", [-3, -1, 1, 3, 17])
@pytest.mark.parametrize("victim", ["logits", "labels"])
def test_out_overlaps_in_part(shape: tuple, axis: int, step: int, victim: str) -> None:
    """An `out` that starts a few elements off must not read what it has written."""
    rng = np.random.default_rng(0)
    size = int(np.prod(shape))
    memory = np.zeros(size + 40, np.float32)
    window = memory[20 : 20 + size].reshape(shape)
    out = memory[20 + step : 20 + step + size].reshape(shape)
    arrays = {
        "logits": rng.normal(size=shape).astype(np.float32),
        "labels": data.soft(rng, shape, axis).astype(np.float32),
    }
    want = both(V2, **arrays, axis=axis)
    window[...] = arrays[victim]
    right_or_refused(V2, arrays | {victim: window, "axis": axis}, out, want)


@pytest.mark.parametrize(
    "view", [lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a.T], ids=["rows", "columns", "T"]
)
@pytest.mark.parametrize("victim", ["logits", "labels"])
@pytest.mark.parametrize("n", [6, 40, 200])
def test_out_overlaps_turned(view: Callable, victim: str, n: int) -> None:
    """The same memory in another order."""
    rng = np.random.default_rng(0)
    arrays = {
        "logits": rng.normal(size=(n, n)).astype(np.float32),
        "labels": data.soft(rng, (n, n), 1).astype(np.float32),
    }
    want = both(V2, **arrays)
    right_or_refused(V2, arrays, view(arrays[victim]), want)


def test_out_in_place_of_labels() -> None:
    """`out=labels`: each gradient is computed from the label that it replaces."""
    rng = np.random.default_rng(0)
    for shape in ((5, 4), (40, 10), (3, 5000)):
        logits = rng.normal(size=shape).astype(np.float32)
        labels = data.soft(rng, shape, 1).astype(np.float32)
        want = both(V2, labels=labels, logits=logits)
        right_or_refused(V2, {"labels": labels, "logits": logits}, labels, want)


def test_out_overlaps_other_operands() -> None:
    """Class numbers, weights and upstream gradients in the memory of `out`."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    classes = rng.integers(0, 4, 6).astype(np.int32)
    weights = rng.uniform(1, 2, 6).astype(np.float32)

    def inside(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An array of gradients, and the array `a` at its start."""
        out = np.zeros_like(logits)
        view = out.reshape(-1)[: a.size].view(a.dtype)
        view[...] = a
        return out, view

    want = both(SPARSE, labels=classes, logits=logits)
    out, view = inside(classes)
    right_or_refused(SPARSE, {"labels": view, "logits": logits}, out, want)
    want = both(SPARSE, labels=classes, logits=logits, upstream=weights)
    out, view = inside(weights)
    right_or_refused(SPARSE, {"labels": classes, "logits": logits, "upstream": view}, out, want)
    want = both(SPARSE_LOSS, labels=classes, logits=logits, weights=weights)
    out, view = inside(weights)
    kwargs = {"labels": classes, "logits": logits, "weights": view}
    right_or_refused(SPARSE_LOSS, kwargs, out, want)


def test_out_overlaps_itself() -> None:
    """One memory for two gradients, or for two elements of one, is refused."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    labels = data.soft(rng, (6, 4), 1).astype(np.float32)
    out = np.full_like(logits, 7)
    with pytest.raises(ValueError, match="out"):
        xent.value_and_grad(V2, wrt=("logits", "labels"))(labels, logits, out=(out, out))
    with pytest.raises(ValueError, match="out"):
        xent.value_and_grad(V2, wrt=("logits", "labels"))(labels, logits, out=(out, out[::-1]))
    folded = np.lib.stride_tricks.as_strided(out, logits.shape, (0, 4))
    with pytest.raises(ValueError, match="out"):
        xent.value_and_grad(V2)(labels, logits, out=folded)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.zeros((6, 5), np.float32), ValueError),
        (np.zeros((6,), np.float32), ValueError),
        (np.zeros((4, 6), np.float32), ValueError),
        (np.zeros((1, 6, 4), np.float32), ValueError),
        (np.zeros((6, 4), np.float64), TypeError),
        (np.zeros((6, 4), np.float16), TypeError),
        (np.zeros((6, 4), np.int32), TypeError),
        (data.read_only(np.zeros((6, 4), np.float32)), ValueError),
        ([[0.0] * 4] * 6, TypeError),
        ((np.zeros((6, 4), np.float32),) * 2, (TypeError, ValueError)),
    ],
    ids=lambda x: f"{x.dtype}{x.shape}" if isinstance(x, np.ndarray) else None,
)
def test_out_that_does_not_fit(out: Any, error: type[Exception]) -> None:
    """Nothing is cast, broadcast or reshaped on the way into `out`."""
    logits = np.zeros((6, 4), np.float32)
    labels = np.full((6, 4), 0.25, np.float32)
    with pytest.raises(error, match="out"):
        xent.value_and_grad(V2)(labels, logits, out=out)


def test_out_is_untouched_when_the_call_raises() -> None:
    """Everything is checked before anything is written."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, 40)).astype(np.float32)
    labels = data.soft(rng, (300, 40), 1).astype(np.float32)
    classes = rng.integers(0, 40, 300)
    weights = np.ones(300, np.float32)
    bad = classes.copy()
    bad[-1] = 40
    wrong = np.ones(7, np.float32)
    calls: list[tuple[Callable, dict[str, Any]]] = [
        (SPARSE, {"labels": bad}),
        (SPARSE, {"labels": classes.astype(np.int16)}),
        (SPARSE, {"labels": classes, "upstream": wrong}),
        (SPARSE_LOSS, {"labels": bad}),
        (SPARSE_LOSS, {"labels": bad, "weights": weights * 0}),
        (SPARSE_LOSS, {"labels": classes, "weights": wrong}),
        (SPARSE_LOSS, {"labels": classes, "reduction": "mean"}),
        (SPARSE_LOSS, {"labels": classes, "weights": "a"}),
        (SPARSE_LOSS, {"labels": classes, "scope": 5}),
        (SPARSE_LOSS, {"labels": classes, "loss_collection": [1]}),
        (V2, {"labels": labels[:, :7]}),
        (V2, {"labels": labels, "axis": 2}),
        (V2, {"labels": labels, "axis": 1, "dim": 1}),
        (V2, {"labels": labels, "upstream": wrong}),
        (SOFTMAX_LOSS, {"onehot_labels": labels[:1]}),
        (SOFTMAX_LOSS, {"onehot_labels": labels, "weights": wrong}),
        (SOFTMAX_LOSS, {"onehot_labels": labels, "reduction": None}),
        (SOFTMAX_LOSS, {"onehot_labels": labels, "label_smoothing": None}),
        (SOFTMAX_LOSS, {"onehot_labels": labels, "upstream": wrong}),
    ]
    for fn, kwargs in calls:
        for in_place in (False, True):
            inputs = logits.copy()
            out = inputs if in_place else np.full_like(logits, 7)
            before = bits(out)
            with xent.losses.collecting(), pytest.raises((TypeError, ValueError)):
                xent.value_and_grad(fn)(logits=inputs, **kwargs, out=out)
            assert np.array_equal(bits(out), before), (fn.__name__, list(kwargs))
