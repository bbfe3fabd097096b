"""The reductions: their names, what each divides by, and what a divisor of 0 does."""

import itertools
from typing import Any

import numpy as np
import pytest
from calls import LOGITS, ONE_HOT, SOFTMAX_LOSS, WEIGHTED

import numba_xent as xent
from numba_xent._weighting import Weighting
from numba_xent.losses import Reduction

NAN, INF = float("nan"), float("inf")
NONE, SUM, MEAN, BATCH, NONZERO, _ = Reduction.all()
SCALAR = (SUM, MEAN, BATCH, NONZERO)
X = np.array([0.40760595, 1.0986123, 0.00917445], np.float32)


def test_members() -> None:
    """TensorFlow 2's six names, two of them for one thing."""
    assert {name: value for name, value in vars(Reduction).items() if name.isupper()} == {
        "NONE": "none",
        "SUM": "weighted_sum",
        "MEAN": "weighted_mean",
        "SUM_OVER_BATCH_SIZE": "weighted_sum_over_batch_size",
        "SUM_BY_NONZERO_WEIGHTS": "weighted_sum_by_nonzero_weights",
        "SUM_OVER_NONZERO_WEIGHTS": "weighted_sum_by_nonzero_weights",
    }


def test_all() -> None:
    """In TensorFlow's order."""
    assert Reduction.all() == (
        "none",
        "weighted_sum",
        "weighted_mean",
        "weighted_sum_over_batch_size",
        "weighted_sum_by_nonzero_weights",
        "weighted_sum_by_nonzero_weights",
    )


def test_validate() -> None:
    """Members and their strings, of any string type; nothing else."""
    for key in Reduction.all():
        assert Reduction.validate(key) is None
        assert Reduction.validate(np.str_(key)) is None
    for key in ("foo", "", "NONE", "mean", "sum", None, 0, b"none", [], object()):
        with pytest.raises(ValueError, match=r"Invalid Reduction Key .*weighted_mean") as info:
            Reduction.validate(key)
        assert str(key) in str(info.value)
    with pytest.raises(ValueError, match=r"ambiguous|reduction"):
        Reduction.validate(np.array(["none", "none"]))


def test_members_may_be_strings() -> None:
    """Both spellings compute the same, for an old key of a newer name too."""
    by_name = WEIGHTED(X, 2.0, reduction=Reduction.SUM_OVER_NONZERO_WEIGHTS)
    assert by_name == WEIGHTED(X, 2.0, reduction="weighted_sum_by_nonzero_weights")
    assert by_name == WEIGHTED(X, 2.0)


@pytest.mark.parametrize("key", [np.array("none"), np.array(["none"])])
def test_keys_are_compared(key: np.ndarray) -> None:
    """An array that equals a key is one, and need not be hashable."""
    want = WEIGHTED(X, 2.0, reduction="none")
    assert np.array_equal(WEIGHTED(X, 2.0, reduction=key), want)
    assert np.array_equal(xent.value_and_grad(WEIGHTED, "losses")(X, 2.0, reduction=key)[0], want)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 3), (0,), (0, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_divisors(shape: tuple[int, ...], dtype: type) -> None:
    """For weights of every shape that broadcasts, as if they had been broadcast."""
    shapes = {(), *itertools.product(*((1, n) for n in shape))}
    for own in shapes:
        weights = np.resize(np.array([2, 0, -0.0, 3, -1, 0.5], dtype), own)
        full = np.broadcast_to(weights, shape) if own else np.full(shape, weights)
        want = {
            NONE: None,
            SUM: 1,
            MEAN: full.sum(dtype=np.float64),
            BATCH: full.size,
            NONZERO: np.count_nonzero(full),
        }
        got = {key: Weighting(weights, weights, shape, key).divisor for key in want}
        assert got == want


TABLE = [
    # weights, then NONE, SUM, MEAN, BATCH, NONZERO
    ([1, 0, 3], [0.40760595, 0, 0.02752336], 0.43512931, 0.10878233, 0.14504310, 0.21756466),
    ([0, 0, 0], [0, 0, 0], 0, 0, 0, 0),
    (0.0, [0, 0, 0], 0, 0, 0, 0),
    ([-1, 1, 0], [-0.40760595, 1.0986123, 0], 0.69100636, 0, 0.23033545, 0.34550318),
    ([-1, -2, 3], [-0.40760595, -2.1972246, 0.02752336], -2.5773072, 0, -0.8591024, -0.8591024),
    (-1.0, -X, -1.5153927, 0.50513089, -0.50513089, -0.50513089),
    (NAN, [NAN] * 3, NAN, NAN, NAN, NAN),
    ([NAN, 1, 1], [NAN, 1.0986123, 0.00917445], NAN, NAN, NAN, NAN),
    (INF, [INF] * 3, INF, NAN, INF, INF),
    ([INF, -INF, 0], [INF, -INF, 0], NAN, NAN, NAN, NAN),
    (2.0, 2 * X, 3.0307854, 0.50513089, 1.0102618, 1.0102618),
    ([-0.0, 1, 1], [-0.0, 1.0986123, 0.00917445], 1.1077868, 0.5538934, 0.36926226, 0.5538934),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row[0]))
def test_values(row: tuple[Any, ...]) -> None:
    """What TensorFlow 2 returns, and no warning on the way."""
    weights, *want = row
    for dtype in (np.float32, np.float64):
        for reduction, value in zip(Reduction.all()[:5], want, strict=True):
            got = WEIGHTED(X.astype(dtype), weights, reduction=reduction)
            assert got.dtype == dtype
            np.testing.assert_allclose(got, np.asarray(value), rtol=1e-6, atol=0)


@pytest.mark.parametrize("first", [0.0, -0.0])
def test_equal_numbers_are_told_apart(first: float) -> None:
    """Zeros by their sign, and integers, which have no gradient, from floats."""
    for weight in (first, -first, 0, 0.0, -0.0):
        each = WEIGHTED(X, weight, reduction=NONE)
        assert np.array_equal(np.signbit(each), np.full(3, np.signbit(weight)))
    by_weights = xent.value_and_grad(WEIGHTED, "weights")
    for weight in (1.0, 1, 1.0, np.float32(1)):
        assert (by_weights(X, weight)[1] is None) == isinstance(weight, int)
    assert np.float64(1) == by_weights(np.zeros(2) + 1, 1.0)[0]
    assert by_weights(X.astype(np.float64), 1.0)[1].dtype == np.float64
    assert by_weights(X, 1.0)[1].dtype == np.float32


def test_denormal_weights_are_present() -> None:
    """They are not 0, so they count."""
    got = WEIGHTED([1.3132616, 1.3132616], np.array([1e-40, 1], np.float32))
    assert got == np.float32(1.3132616 / 2)
    with_zero = WEIGHTED([1.3132616, 1.3132616], np.array([0, 1], np.float32))
    assert with_zero == np.float32(1.3132616)


@pytest.mark.parametrize("losses", [[NAN, 1.0], [INF, 1.0], [-INF, 1.0]])
def test_zero_weights_do_not_mask(losses: list[float]) -> None:
    """0 * NaN is NaN, but a divisor of 0 makes 0 of it."""
    masked = [0.0, 1.0]
    assert np.isnan([WEIGHTED(losses, masked, reduction=r) for r in SCALAR]).all()
    nothing = {r: WEIGHTED(losses, 0.0, reduction=r) for r in SCALAR}
    assert np.isnan(nothing[SUM])
    assert np.isnan(nothing[BATCH])
    assert nothing[MEAN] == 0
    assert nothing[NONZERO] == 0
    each = WEIGHTED(losses, 0.0, reduction=NONE)
    assert np.isnan(each[0])
    assert each[1] == 0


@pytest.mark.parametrize("weights", [1.0, 0.0, NAN, INF, [], [2.0], [NAN], [INF]])
def test_no_losses(weights: Any) -> None:
    """Every scalar reduction of nothing is 0, whatever the weights: none of them is used."""
    none = np.zeros((0, 3), np.float32)
    for reduction in SCALAR:
        assert WEIGHTED(none[:, 0], weights, reduction=reduction) == 0
        assert SOFTMAX_LOSS(none, none, weights, reduction=reduction) == 0
    assert WEIGHTED(none[:, 0], weights, reduction=NONE).shape == (0,)
    assert SOFTMAX_LOSS(none, none, weights, reduction=NONE).shape == (0,)


def test_integer_losses_are_truncated() -> None:
    """They are computed in float32 and cast back, as TensorFlow does."""
    losses = np.array([1, 2, 4], np.int32)
    assert WEIGHTED(losses, 0.3, reduction=NONE).tolist() == [0, 0, 1]
    assert WEIGHTED(losses, 0.3, reduction=SUM) == 2
    assert WEIGHTED(losses, 0.3) == 0
    assert WEIGHTED(losses, 0.3).dtype == np.int32
    assert WEIGHTED([True, False], reduction=SUM).dtype == np.bool_


def test_float64_is_reduced_in_float64() -> None:
    """TensorFlow's detour by way of float32 is not copied."""
    losses = np.array([16777217.0, 1e-9])
    assert WEIGHTED(losses, reduction=NONE).tolist() == losses.tolist()
    assert WEIGHTED(losses, 0.1, reduction=SUM) == pytest.approx(1677721.7000000001, rel=1e-16)
    assert WEIGHTED(losses, [1.0, 1e300], reduction=NONE)[1] == losses[1] * 1e300


@pytest.mark.parametrize("dtype", [np.int8, np.bool_, np.float16, np.float64, np.complex64])
def test_weights_of_any_dtype(dtype: type) -> None:
    """They are cast to the compute dtype; an imaginary part is dropped."""
    weights = np.array([1, 0, 1], dtype)
    if dtype is np.complex64:
        weights += 1j
    for reduction in Reduction.all()[:5]:
        want = WEIGHTED(X, np.array([1, 0, 1], np.float32), reduction=reduction)
        assert np.array_equal(WEIGHTED(X, weights, reduction=reduction), want)


def test_huge_weights_overflow_in_silence() -> None:
    """They become infinite in float32, as in TensorFlow's graph mode."""
    huge = np.array([1e300, 0, 0])
    assert WEIGHTED(X, huge, reduction=SUM) == np.inf
    assert SOFTMAX_LOSS(ONE_HOT, LOGITS, huge[:2], reduction=SUM) == np.inf
    assert SOFTMAX_LOSS(ONE_HOT, LOGITS.astype(float), np.full(2, 1e308), reduction=MEAN) == 0
