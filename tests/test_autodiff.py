"""`value_and_grad`: what it makes of a function, and gradients against differences."""

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from calls import (
    FIRST_WRT,
    FUNCTIONS,
    LOGITS,
    ONE_HOT,
    RIGHT,
    SOFTMAX_LOSS,
    SPARSE,
    SPARSE_LOSS,
    V1,
    V2,
    WEIGHTED,
)

import numba_xent as xent
from numba_xent.losses import Reduction

REDUCTIONS = Reduction.all()[:5]
OTHERS: dict[Callable, tuple[str, ...]] = {V1: (), SPARSE: (), V2: ("labels",)}
OTHERS |= dict.fromkeys((SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED), ("weights",))
RNG = np.random.default_rng(0)
BATCH = (2, 3)
Z = RNG.normal(size=(*BATCH, 4)) * 2
SOFT = RNG.dirichlet(np.ones(4), BATCH)
INDEX = RNG.integers(0, 4, BATCH)
X = RNG.uniform(0.5, 3, BATCH)


# --- the function that is made


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_signature(fn: Callable) -> None:
    """That of the function, with two more keywords; its name and words say what it is."""
    both = xent.value_and_grad(fn, FIRST_WRT[fn])
    own = list(inspect.signature(fn).parameters.values())
    *same, upstream, out = inspect.signature(both).parameters.values()
    assert same == own
    assert (upstream.name, out.name) == ("upstream", "out")
    for parameter in (upstream, out):
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is None
    assert fn.__name__ in both.__name__
    assert both.__name__ != fn.__name__
    assert both.__module__ == fn.__module__
    assert both.__doc__


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_positions_and_keywords(fn: Callable) -> None:
    """Arguments may be given as the function takes them."""
    wrt = FIRST_WRT[fn]
    both = xent.value_and_grad(fn, wrt)
    value, gradient = both(**RIGHT[fn])
    positional = (None,) * (fn in (V1, SPARSE)) + tuple(RIGHT[fn].values())
    for count in range(len(positional) + 1):
        names = list(inspect.signature(fn).parameters)[count : len(positional)]
        rest = dict(zip(names, positional[count:], strict=True))
        again, again_gradient = both(*positional[:count], **rest)
        assert np.array_equal(again, value)
        assert np.array_equal(again_gradient, gradient)
    assert np.array_equal(value, fn(**RIGHT[fn]))
    assert type(value) is type(fn(**RIGHT[fn]))


def test_logits_is_the_default() -> None:
    """As it is what one wants nearly always."""
    assert np.array_equal(
        xent.value_and_grad(V2)(ONE_HOT, LOGITS)[1],
        xent.value_and_grad(V2, wrt="logits")(ONE_HOT, LOGITS)[1],
    )
    with pytest.raises(ValueError, match="wrt"):
        xent.value_and_grad(WEIGHTED)


@pytest.mark.parametrize(
    ("fn", "names"),
    [
        (V2, ("logits", "labels")),
        (SOFTMAX_LOSS, ("logits", "weights")),
        (SPARSE_LOSS, ("logits", "weights")),
        (WEIGHTED, ("losses", "weights")),
    ],
)
def test_tuples(fn: Callable, names: tuple[str, str]) -> None:
    """A tuple of names gives a tuple of gradients in its order, also of one."""
    value, gradients = xent.value_and_grad(fn, names)(**RIGHT[fn])
    assert type(gradients) is tuple
    swapped = xent.value_and_grad(fn, names[::-1])(**RIGHT[fn])
    assert np.array_equal(swapped[0], value)
    assert all(np.array_equal(a, b) for a, b in zip(swapped[1][::-1], gradients, strict=True))
    for name, gradient in zip(names, gradients, strict=True):
        alone, one = xent.value_and_grad(fn, name)(**RIGHT[fn])
        assert np.array_equal(alone, value)
        assert np.array_equal(one, gradient)
        (in_tuple,) = xent.value_and_grad(fn, (name,))(**RIGHT[fn])[1]
        assert np.array_equal(in_tuple, gradient)


# --- gradients and slopes


def slopes(function: Callable[[np.ndarray], Any], at: np.ndarray, upstream: Any) -> np.ndarray:
    """Central differences of the sum of ``upstream * function(x)``, in float64."""
    gradient = np.empty(at.shape)
    step = 1e-6
    for index in np.ndindex(at.shape):
        ends = []
        for sign in (step, -step):
            moved = at.copy()
            moved[index] += sign
            ends.append(np.sum(upstream * function(moved)))
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def upstream_for(value: Any) -> Any:
    """Some upstream gradient of the shape of a value."""
    return np.asarray(np.random.default_rng(3).normal(size=np.shape(value)))


CALLS: dict[Callable, dict[str, Any]] = {
    SOFTMAX_LOSS: {"onehot_labels": SOFT, "logits": Z, "label_smoothing": 0.2},
    SPARSE_LOSS: {"labels": INDEX, "logits": Z},
    WEIGHTED: {"losses": X},
}
WEIGHT_SHAPES = [(), *itertools.product((1, 2), (1, 3))]


@pytest.mark.parametrize("fn", CALLS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", WEIGHT_SHAPES, ids=str)
def test_losses_are_differentiated(fn: Callable, reduction: str, shape: tuple[int, ...]) -> None:
    """By logits or losses and by weights of any shape, for every reduction, times upstream."""
    weights = np.asarray(np.random.default_rng(1).uniform(0.5, 2, shape))
    kwargs = CALLS[fn] | {"weights": weights, "reduction": reduction}
    names = (FIRST_WRT[fn], "weights")
    value = fn(**kwargs)
    for up in (None, upstream_for(value)):
        got, gradients = xent.value_and_grad(fn, names)(**kwargs, upstream=up)
        assert np.array_equal(got, value)
        for name, gradient in zip(names, gradients, strict=True):
            want = slopes(
                lambda x, name=name: fn(**kwargs | {name: x}),
                kwargs[name],
                1.0 if up is None else up,
            )
            assert np.shape(gradient) == kwargs[name].shape
            np.testing.assert_allclose(gradient, want, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("fn", [V1, V2, SPARSE])
def test_nn_is_differentiated(fn: Callable) -> None:
    """By the logits and, of v2, by the labels, times upstream."""
    kwargs = {"labels": INDEX if fn is SPARSE else SOFT, "logits": Z}
    for up in (None, upstream_for(np.zeros(BATCH))):
        for name in ("logits", "labels")[: 1 + (fn is V2)]:
            value, gradient = xent.value_and_grad(fn, name)(**kwargs, upstream=up)
            want = slopes(
                lambda x, name=name: fn(**kwargs | {name: x}),
                kwargs[name],
                1.0 if up is None else up,
            )
            assert np.array_equal(value, fn(**kwargs))
            np.testing.assert_allclose(gradient, want, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 1, 4), (2, 3, 1), (1, 1, 1)], ids=str)
def test_gradient_of_broadcast_labels(shape: tuple[int, ...]) -> None:
    """It has the labels' own shape: what they were repeated over is summed."""
    labels = np.random.default_rng(2).uniform(size=shape)
    up = upstream_for(np.zeros(BATCH))
    _, gradient = xent.value_and_grad(V2, "labels")(labels, Z, upstream=up)
    want = slopes(lambda x: V2(x, Z), labels, up)
    assert gradient.shape == shape
    np.testing.assert_allclose(gradient, want, rtol=1e-7, atol=1e-8)


def test_weights_of_zero() -> None:
    """NONE, SUM and BATCH have a slope there; the others are 0 by decree where they divide by 0."""
    size = X.size
    for fn, losses in [
        (WEIGHTED, X),
        (SPARSE_LOSS, SPARSE(labels=INDEX, logits=Z)),
    ]:
        kwargs = CALLS[fn]
        for reduction, want in [
            ("none", losses.sum()),
            ("weighted_sum", losses.sum()),
            ("weighted_sum_over_batch_size", losses.sum() / size),
            ("weighted_mean", 0),
            ("weighted_sum_by_nonzero_weights", 0),
        ]:
            both = xent.value_and_grad(fn, (FIRST_WRT[fn], "weights"))
            _, (first, gradient) = both(**kwargs, weights=np.float64(0), reduction=reduction)
            assert gradient == pytest.approx(want, rel=1e-14)
            assert (first == 0).all()
            assert first.shape == kwargs[FIRST_WRT[fn]].shape


def test_some_weights_of_zero() -> None:
    """The number of weights that are not 0 is a constant to the gradient."""
    weights = np.array([[1.0, 0, 3], [0, 0, 2]])
    _, gradient = xent.value_and_grad(WEIGHTED, "weights")(X, weights)
    np.testing.assert_allclose(gradient, X / 3, rtol=1e-14)
    _, gradient = xent.value_and_grad(WEIGHTED, "losses")(X, weights)
    np.testing.assert_allclose(gradient, weights / 3, rtol=1e-14)


def test_zero_classes_and_examples() -> None:
    """Nothing to differentiate is no reason to fail."""
    for shape in ((0, 3), (2, 0), (0, 4, 3)):
        z = np.zeros(shape, np.float32)
        value, (by_logits, by_labels) = xent.value_and_grad(V2, ("logits", "labels"))(z, z)
        assert value.shape == shape[:-1]
        assert by_logits.shape == by_labels.shape == shape
        value, (by_logits, by_weights) = xent.value_and_grad(SOFTMAX_LOSS, ("logits", "weights"))(
            z, z, np.ones(shape[:-1], np.float32)
        )
        assert value == 0
        assert by_logits.shape == shape
        assert by_weights.shape == shape[:-1]
        assert (by_weights == 0).all()


# --- dtypes and kinds


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_dtypes_of_gradients(fn: Callable) -> None:
    """Each gradient has the dtype of its argument, whatever the others have."""
    for dtype, other in itertools.permutations((np.float16, np.float32, np.float64), 2):
        kwargs = {
            name: value.astype(dtype if name == FIRST_WRT[fn] else other)
            if value.dtype == np.float32
            else value
            for name, value in RIGHT[fn].items()
        }
        if fn in (SOFTMAX_LOSS, SPARSE_LOSS):
            kwargs["weights"] = np.ones(2, other)
        names = (FIRST_WRT[fn], *OTHERS[fn])
        value, gradients = xent.value_and_grad(fn, names)(**kwargs)
        assert value.dtype == dtype
        for name, gradient in zip(names, gradients, strict=True):
            assert gradient.dtype == kwargs[name].dtype
            assert gradient.shape == kwargs[name].shape


@pytest.mark.parametrize(
    ("fn", "name", "value"),
    [
        (V2, "labels", ONE_HOT.astype(int)),
        (V2, "labels", ONE_HOT.astype(bool)),
        (V2, "labels", ONE_HOT.astype(complex)),
        (SOFTMAX_LOSS, "weights", np.array([1, 2])),
        (SOFTMAX_LOSS, "weights", 1),
        (SPARSE_LOSS, "weights", True),
        (WEIGHTED, "weights", [1, 2, 3]),
        (WEIGHTED, "losses", [1, 2, 3]),
    ],
)
def test_no_gradient_by_integers(fn: Callable, name: str, value: Any) -> None:
    """None, beside the gradients of the other arguments and an `out` of None."""
    kwargs = RIGHT[fn] | {name: value}
    assert xent.value_and_grad(fn, name)(**kwargs)[1] is None
    other = "weights" if name == "losses" else FIRST_WRT[fn]
    value, (gradient, nothing) = xent.value_and_grad(fn, (other, name))(**kwargs, out=(None, None))
    assert nothing is None
    assert np.array_equal(gradient, xent.value_and_grad(fn, other)(**kwargs)[1])
    assert np.array_equal(value, fn(**kwargs))


def test_upstream_of_any_kind() -> None:
    """Lists, integers and other dtypes are converted to the compute dtype, without a warning."""
    both = xent.value_and_grad(V2)
    want = both(ONE_HOT, LOGITS, upstream=np.array([2, -3], np.float32))[1]
    for up in ([2, -3], [2.0, -3.0], np.array([2, -3], np.int8), np.array([2, -3 + 0j])):
        assert np.array_equal(both(ONE_HOT, LOGITS, upstream=up)[1], want)
    huge = both(ONE_HOT, LOGITS, upstream=np.array([1e300, 0]))[1]
    assert np.isinf(huge[0]).all()
    assert (huge[1] == 0).all()
    wide = xent.value_and_grad(SOFTMAX_LOSS)
    z = LOGITS.astype(np.float64)
    by_scalar = wide(ONE_HOT, z, upstream=0.1)[1]
    assert np.array_equal(by_scalar, wide(ONE_HOT, z, upstream=np.float64(0.1))[1])


def test_overflow_is_silent() -> None:
    """What does not fit its dtype becomes infinite, and no warning tells of it."""
    z = (LOGITS * 1000).astype(np.float16)
    both = xent.value_and_grad(SOFTMAX_LOSS, "weights")
    value, gradient = both(ONE_HOT[::-1], z, np.full(2, 60000, np.float16), reduction="none")
    assert np.isinf(value).all()
    assert np.isfinite(gradient).all()
    labels = np.where(ONE_HOT, np.longdouble("1e4000"), np.longdouble(0))
    assert np.isinf(V1(labels=labels, logits=LOGITS)).all()


def test_upstream_of_zero() -> None:
    """A gradient of zeros."""
    for fn in FUNCTIONS:
        value = fn(**RIGHT[fn])
        both = xent.value_and_grad(fn, FIRST_WRT[fn])
        assert (both(**RIGHT[fn], upstream=np.zeros_like(value))[1] == 0).all()


# --- out


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_out_is_returned(fn: Callable) -> None:
    """The very object, for each name; None makes a new one, and no input ever is that."""
    names = (FIRST_WRT[fn], *OTHERS[fn])
    kwargs = dict(RIGHT[fn])
    if "weights" in names:
        kwargs.setdefault("weights", np.ones(2, np.float32))
    both = xent.value_and_grad(fn, names)
    value, want = both(**kwargs)
    outs = tuple(np.full_like(kwargs[name], 7) for name in names)
    again, got = both(**kwargs, out=outs)
    assert np.array_equal(again, value)
    for out, gradient, fresh, name in zip(outs, got, want, names, strict=True):
        assert gradient is out
        assert np.array_equal(out, fresh)
        assert not np.shares_memory(fresh, kwargs[name])
    one = np.full_like(kwargs[names[0]], 7)
    assert xent.value_and_grad(fn, names[0])(**kwargs, out=one)[1] is one
    assert np.array_equal(one, want[0])
    _, mixed = both(**kwargs, out=(one, *(None,) * (len(names) - 1)))
    assert mixed[0] is one
    assert all(np.array_equal(a, b) for a, b in zip(mixed, want, strict=True))


def test_out_of_scalar_weights() -> None:
    """An array of rank 0 receives the gradient by one number."""
    out = np.array(7, np.float32)
    _, gradient = xent.value_and_grad(WEIGHTED, "weights")(RIGHT[WEIGHTED]["losses"], 2.0, out=out)
    assert gradient is out
    assert out == 2


@pytest.mark.parametrize("foreign", [">f4", "<f4"])
def test_out_in_any_byte_order(foreign: str) -> None:
    """Arguments in foreign byte order have gradients in the native one; `out` may be either."""
    weights, z, labels = (a.astype(foreign) for a in (np.float32([2, 3]), LOGITS, ONE_HOT))
    for fn, name, args in [
        (SOFTMAX_LOSS, "weights", (labels, z, weights)),
        (SOFTMAX_LOSS, "logits", (labels, z, weights)),
        (V2, "labels", (labels, z)),
        (WEIGHTED, "losses", (weights, weights)),
        (WEIGHTED, "weights", (weights, weights)),
    ]:
        both = xent.value_and_grad(fn, name)
        want = both(*args)[1]
        assert want.dtype == np.float32
        assert want.dtype.isnative
        for dtype in ("<f4", ">f4"):
            out = np.zeros(want.shape, dtype)
            assert both(*args, out=out)[1] is out
            assert np.array_equal(out, want)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("fn", [SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED])
def test_out_over_the_weights(fn: Callable, reduction: str) -> None:
    """The weights may be overwritten by their own gradient; the value is as if they were not."""
    kwargs = RIGHT[fn] | {"reduction": reduction}
    n = len(kwargs.get("labels", kwargs.get("onehot_labels", kwargs.get("losses"))))
    weights = np.arange(2.0, 2 + n, dtype=np.float32)
    both = xent.value_and_grad(fn, "weights")
    value, gradient = both(**kwargs | {"weights": weights.copy()})
    again, out = both(**kwargs | {"weights": weights}, out=weights)
    assert out is weights
    assert np.array_equal(again, value)
    assert np.array_equal(out, gradient)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("victim", ["weights", "upstream"])
@pytest.mark.parametrize("fn", [SOFTMAX_LOSS, SPARSE_LOSS])
def test_out_over_other_operands(fn: Callable, reduction: str, victim: str) -> None:
    """A gradient that overwrites what another result needs is written after it is read."""
    memory = np.arange(1.0, 7, dtype=np.float32)
    operands = {"weights": np.float32([2, 3]), "upstream": np.float32([5, 7])}
    if reduction != "none":
        operands["upstream"] = np.float32(5)
    size = np.size(operands[victim])
    memory[:size] = operands[victim]
    both = xent.value_and_grad(fn, ("logits", "weights"))
    kwargs = RIGHT[fn] | {"reduction": reduction}
    value, want = both(**kwargs, **operands)
    operands[victim] = memory[:size].reshape(np.shape(operands[victim]))
    again, got = both(**kwargs, **operands, out=(memory.reshape(2, 3), None))
    assert np.array_equal(again, value)
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


# --- the squeezed shapes of losses.sparse_softmax_cross_entropy


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("labels", "logits", "weights"),
    [
        ((2, 1), (2, 3), (2, 1)),
        ((2, 1), (2, 3), (2,)),
        ((2,), (2, 3), (2, 1)),
        ((2,), (2, 3), (1, 1)),
        ((2, 4, 1), (2, 4, 3), (2, 4, 1)),
        ((2, 4), (2, 4, 3), (1, 4, 1)),
        ((1,), (3,), ()),
        ((), (3,), (1,)),
        ((2,), (2, 3, 1), (2, 1)),
        ((), (3, 1), ()),
        ((2, 4), (2, 4, 3, 1), (2, 1, 1)),
    ],
    ids=str,
)
def test_squeezed_shapes(
    labels: tuple[int, ...], logits: tuple[int, ...], weights: tuple[int, ...], reduction: str
) -> None:
    """Gradients and `out` have the shapes of the arguments, not those that they are squeezed to."""
    rng = np.random.default_rng(4)
    z, w = rng.normal(size=logits), np.asarray(rng.uniform(1, 2, weights))
    y = np.asarray(rng.integers(0, 3, labels))
    kwargs = {"labels": y, "logits": z, "weights": w, "reduction": reduction}
    value = SPARSE_LOSS(**kwargs)
    up = upstream_for(value)
    both = xent.value_and_grad(SPARSE_LOSS, ("logits", "weights"))
    got, gradients = both(**kwargs, upstream=up)
    assert np.array_equal(got, value)
    for name, gradient in zip(("logits", "weights"), gradients, strict=True):
        want = slopes(lambda x, name=name: SPARSE_LOSS(**kwargs | {name: x}), kwargs[name], up)
        assert np.shape(gradient) == kwargs[name].shape
        np.testing.assert_allclose(gradient, want, rtol=1e-7, atol=1e-8)
    outs = np.zeros(logits), np.zeros(weights)
    _, written = both(**kwargs, upstream=up, out=outs)
    assert all(a is b for a, b in zip(written, outs, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(outs, gradients, strict=True))
    expected = gradients[0]
    _, in_place = xent.value_and_grad(SPARSE_LOSS)(**kwargs, upstream=up, out=z)
    assert in_place is z
    assert np.array_equal(z, expected)
    with pytest.raises(ValueError, match=r"out must have shape"):
        xent.value_and_grad(SPARSE_LOSS)(**kwargs, out=np.zeros((*logits, 1)))
