"""Gradients into `out`: in any layout, in place, and over other operands."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strategies as data
from calls import SOFTMAX_LOSS, SPARSE, SPARSE_LOSS, V2
from comparing import both, layouts, reductions, weights_for
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Problem, assert_same_bits, bits

import numba_xent as xent


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
