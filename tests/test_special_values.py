"""Infinities, NaN, huge distances and denormals: a table of rows, each tried in many places.

A row of the table gives labels and logits of a few classes, the loss and both gradients. It is
checked alone, inside long rows whose other classes are masked, along axis 0, between other rows,
and in each dtype that can hold its numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import pytest
from strategies import BFLOAT16, DTYPES, assert_same_bits

import numba_xent as xent

V1 = xent.nn.softmax_cross_entropy_with_logits
V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SPARSE = xent.nn.sparse_softmax_cross_entropy_with_logits
INF, NAN = np.inf, np.nan
F32, F64, F16 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)
ALL_NAN = [NAN, NAN, NAN]


@dataclass(frozen=True)
class Row:
    """One example and what must come out; `dtypes` where its numbers mean the same."""

    name: str
    logits: list[float]
    labels: list[float]
    loss: float
    dlogits: list[float]
    dlabels: list[float]
    dtypes: tuple[np.dtype, ...] = DTYPES


# softmax and costs of the logits [0, 1] and of [1, 2, 3]
P, Q = 0.2689414213699951, 0.7310585786300049
A, B = 1.3132616875182228, 0.3132616875182228
WIDE = (F32, F64, BFLOAT16)

ROWS = [
    Row("+inf on the label", [INF, 0, 0], [1, 0, 0], NAN, ALL_NAN, ALL_NAN),
    Row("+inf elsewhere", [INF, 0, 0], [0, 1, 0], NAN, ALL_NAN, ALL_NAN),
    Row("two +inf", [INF, INF, 0], [1, 0, 0], NAN, ALL_NAN, ALL_NAN),
    Row("all +inf", [INF, INF, INF], [1, 0, 0], NAN, ALL_NAN, ALL_NAN),
    Row("+inf and -inf", [INF, -INF, 0], [1, 0, 0], NAN, ALL_NAN, ALL_NAN),
    Row("+inf, no label", [INF, 0, 0], [0, 0, 0], NAN, ALL_NAN, ALL_NAN),
    Row("NaN on the label", [NAN, 0, 1], [1, 0, 0], NAN, ALL_NAN, ALL_NAN),
    Row("NaN elsewhere", [NAN, 0, 1], [0, 1, 0], NAN, ALL_NAN, ALL_NAN),
    Row("NaN last", [0, 1, NAN], [0, 1, 0], NAN, ALL_NAN, ALL_NAN),
    Row("NaN, no label", [NAN, 1, 2], [0, 0, 0], NAN, ALL_NAN, ALL_NAN),
    Row("NaN and +inf", [INF, NAN, 2], [0, 0, 1], NAN, ALL_NAN, ALL_NAN),
    Row("NaN and -inf", [-INF, NAN, 2], [0, 0, 1], NAN, ALL_NAN, ALL_NAN),
    Row("all -inf", [-INF, -INF, -INF], [1, 0, 0], NAN, ALL_NAN, ALL_NAN),
    Row("all -inf, no label", [-INF, -INF, -INF], [0, 0, 0], NAN, ALL_NAN, ALL_NAN),
    Row("masked class", [-INF, 0, 1], [0, 1, 0], A, [0, -Q, Q], [INF, A, B]),
    Row("masked last", [0, 1, -INF], [1, 0, 0], A, [-Q, Q, 0], [A, B, INF]),
    Row("two masked", [-INF, -INF, 1], [0, 0, 1], 0, [0, 0, 0], [INF, INF, 0]),
    Row("masked, minus zero label", [-INF, 0, 1], [-0.0, 1, 0], A, [0, -Q, Q], [INF, A, B]),
    Row("label on -inf", [-INF, 0, 1], [1, 0, 0], INF, [-1, P, Q], [INF, A, B]),
    Row("half a label on -inf", [-INF, 0, 1], [0.5, 0.5, 0], INF, [-0.5, P - 0.5, Q], [INF, A, B]),
    Row("negative label on -inf", [-INF, 0, 1], [-1, 1, 0], -INF, [1, P - 1, Q], [INF, A, B]),
    Row("masked, no label", [-INF, 0, 1], [0, 0, 0], 0, [0, P, Q], [INF, A, B]),
    Row("NaN label", [0, 1, -INF], [NAN, 0, 0], NAN, [NAN, Q, 0], [A, B, INF]),
    Row("NaN label on -inf", [0, 1, -INF], [0, 1, NAN], NAN, [P, Q - 1, NAN], [A, B, INF]),
    Row("inf label", [0, 1, -INF], [INF, 0, 0], INF, [-INF, Q, 0], [A, B, INF]),
    Row("-inf label", [0, 1, -INF], [-INF, 0, 0], -INF, [INF, Q, 0], [A, B, INF]),
    Row("inf label, certain", [1000, 0, -1000], [INF, 0, 0], NAN, [-INF, 0, 0], [0, 1000, 2000]),
    Row("far apart, right", [1000, 0, -1000], [1, 0, 0], 0, [0, 0, 0], [0, 1000, 2000]),
    Row("far apart, wrong", [1000, 0, -1000], [0, 0, 1], 2000, [1, 0, -1], [0, 1000, 2000]),
    Row("1e38", [1e38, 0, -1e38], [0, 1, 0], 1e38, [1, -1, 0], [0, 1e38, 2e38], WIDE),
    # The distance of 6e38 overflows float32; its product with a label of 0 is 0 all the same.
    Row("huge, right", [3e38, -3e38, 0], [1, 0, 0], 0, [0, 0, 0], [0, 6e38, 3e38], WIDE),
    Row("huge, wrong", [3e38, -3e38, 0], [0, 1, 0], 6e38, [1, -1, 0], [0, 6e38, 3e38], WIDE),
    Row("huge, other", [3e38, -3e38, 0], [0, 0, 1], 3e38, [1, 0, -1], [0, 6e38, 3e38], WIDE),
    Row("all huge", [3e38, 3e38, -3e38], [1, 0, 0], np.log(2), [-0.5, 0.5, 0],
        [np.log(2), np.log(2), 6e38], WIDE),
    Row("all lowest", [-3e38, -3e38, -3e38], [1, 0, 0], np.log(3), [-2 / 3, 1 / 3, 1 / 3],
        [np.log(3)] * 3, WIDE),
    Row("lowest but not masked", [-3e38, -3e38, -INF], [1, 0, 0], np.log(2), [-0.5, 0.5, 0],
        [np.log(2), np.log(2), INF], WIDE),
    Row("largest half", [65504, -65504, 0], [0, 1, 0], 131008, [1, -1, 0], [0, 131008, 65504],
        (F16, F32, F64)),
    Row("1e308", [1.7e308, -1.7e308, 0], [0, 0, 1], 1.7e308, [1, 0, -1], [0, INF, 1.7e308], (F64,)),
    Row("1e308, right", [1.7e308, -1.7e308, 0], [1, 0, 0], 0, [0, 0, 0], [0, INF, 1.7e308], (F64,)),
    Row("1e308, wrong", [1.7e308, -1.7e308, 0], [0, 1, 0], INF, [1, -1, 0], [0, INF, 1.7e308],
        (F64,)),
    Row("smallest logits", [1e-45, -1e-45, 0], [1, 0, 0], np.log(3), [-2 / 3, 1 / 3, 1 / 3],
        [np.log(3)] * 3, (F32, F64)),
]  # fmt: skip

ONE_CLASS = [
    Row("one class", [5], [1], 0, [0], [0]),
    Row("one class, label 2", [5], [2], 0, [-1], [0]),
    Row("one class, label -1", [-5], [-1], 0, [2], [0]),
    Row("one class, label 0", [5], [0], 0, [1], [0]),
    Row("one class +inf", [INF], [1], NAN, [NAN], [NAN]),
    Row("one class -inf", [-INF], [1], NAN, [NAN], [NAN]),
    Row("one class NaN", [NAN], [1], NAN, [NAN], [NAN]),
    Row("one class -inf, no label", [-INF], [0], NAN, [NAN], [NAN]),
]

CASES = [
    pytest.param(row, dtype, id=f"{row.name}-{dtype.name}")
    for row in ROWS + ONE_CLASS
    for dtype in row.dtypes
]
TOLERANCE = {F32: (3e-7, 1e-7), F64: (1e-15, 3e-16), F16: (6e-4, 1e-7), BFLOAT16: (5e-3, 1e-7)}


def array(numbers: Any, dtype: np.dtype) -> np.ndarray:
    """Numbers in a dtype; those that do not fit are infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(numbers, np.float64).astype(dtype)


def check(got: Any, want: Any, dtype: np.dtype) -> None:
    """Assert dtype, infinities, NaN, zeros and, closely, numbers."""
    assert got.dtype == dtype
    rtol, atol = TOLERANCE[dtype]
    if dtype in (F16, BFLOAT16):  # the wanted number is rounded to the half as well
        want = array(want, dtype)
    with np.errstate(over="ignore"):
        want = np.asarray(want).astype(oracle.compute_dtype(dtype)).astype(np.float64)
    np.testing.assert_allclose(np.asarray(got).astype(np.float64), want, rtol=rtol, atol=atol)


def check_all(
    labels: np.ndarray, logits: np.ndarray, axis: int, loss: Any, dlogits: Any, dlabels: Any
) -> None:
    """Check value and both gradients, from each function that can give them."""
    dtype = logits.dtype
    value, (dz, dl) = xent.value_and_grad(V2, wrt=("logits", "labels"))(labels, logits, axis=axis)
    check(value, loss, dtype)
    check(dz, dlogits, dtype)
    check(dl, dlabels, dtype)
    for other in (
        V2(labels, logits, axis=axis),
        V1(labels=labels, logits=logits, axis=axis),
        xent.value_and_grad(V1)(labels=labels, logits=logits, axis=axis)[0],
    ):
        assert_same_bits(other, value)
    if axis in (-1, logits.ndim - 1):
        args = {"onehot_labels": labels, "logits": logits, "reduction": "none"}
        value, grad = xent.value_and_grad(xent.losses.softmax_cross_entropy)(**args)
        check(value, loss, dtype)
        check(grad, dlogits, dtype)


@pytest.mark.parametrize(("row", "dtype"), CASES)
def test_alone(row: Row, dtype: np.dtype) -> None:
    """A vector, one row, and one column."""
    labels, logits = array(row.labels, dtype), array(row.logits, dtype)
    want = row.loss, np.array(row.dlogits), np.array(row.dlabels)
    check_all(labels, logits, 0, *want)
    check_all(labels[None], logits[None], -1, *(np.expand_dims(a, 0) for a in want))
    check_all(labels[:, None], logits[:, None], 0, [row.loss], want[1][:, None], want[2][:, None])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_rows_are_independent(axis: int, dtype: np.dtype) -> None:
    """All rows of the table at once, among ordinary rows, along both axes."""
    rows = [row for row in ROWS if dtype in row.dtypes]
    plain = Row("plain", [1, 0, -INF], [0, 1, 0], A, [Q, -Q, 0], [B, A, INF])
    rows = [r for row in rows for r in (plain, row, plain)] * 3
    labels, logits, dlogits, dlabels = (
        np.array([getattr(row, name) for row in rows])
        for name in ("labels", "logits", "dlogits", "dlabels")
    )
    losses = np.array([row.loss for row in rows])
    labels, logits = array(labels, dtype), array(logits, dtype)
    if axis == 0:
        labels, logits = np.ascontiguousarray(labels.T), np.ascontiguousarray(logits.T)
        dlogits, dlabels = dlogits.T, dlabels.T
    check_all(labels, logits, axis, losses, dlogits, dlabels)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("place", [0, 17, 2047, 4990, 4997])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_in_long_rows(dtype: np.dtype, place: int, axis: int) -> None:
    """The same classes somewhere among 5000, the others masked: they cost nothing.

    Masked classes have a cost of inf, unless the row is NaN.
    """
    rows = [row for row in ROWS if dtype in row.dtypes]
    n = 5000
    logits = np.full((len(rows), n), -INF)
    labels, dlogits, dlabels = np.zeros((3, len(rows), n))
    losses = np.array([row.loss for row in rows])
    for i, row in enumerate(rows):
        bad = np.isnan(row.dlabels).any()
        dlogits[i], dlabels[i] = (NAN, NAN) if bad else (0, INF)
        here = slice(place, place + 3)
        logits[i, here], labels[i, here] = row.logits, row.labels
        dlogits[i, here], dlabels[i, here] = row.dlogits, row.dlabels
    labels, logits = array(labels, dtype), array(logits, dtype)
    if axis == 0:
        labels, logits = np.ascontiguousarray(labels.T), np.ascontiguousarray(logits.T)
        dlogits, dlabels = dlogits.T, dlabels.T
    check_all(labels, logits, axis, losses, dlogits, dlabels)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("where", range(0, 5000, 613))
def test_one_bad_logit_among_many(where: int, dtype: np.dtype) -> None:
    """A NaN or +inf anywhere in a long row of ordinary logits poisons that row alone."""
    rng = np.random.default_rng(0)
    for bad in (NAN, INF):
        logits = rng.normal(size=(3, 5000)).astype(dtype)
        logits[1, where] = bad
        labels = np.zeros((3, 5000), dtype)
        labels[:, 4321] = 1
        classes = np.full(3, 4321)
        for value, grad in (
            xent.value_and_grad(V2)(labels, logits),
            xent.value_and_grad(SPARSE)(labels=classes, logits=logits),
        ):
            assert np.isnan(value.astype(np.float64)).tolist() == [False, True, False]
            nan = np.isnan(grad.astype(np.float64))
            assert nan[1].all()
            assert not nan[[0, 2]].any()
        assert np.isnan(V2(labels, logits).astype(np.float64)).tolist() == [False, True, False]
        assert np.isnan(SPARSE(labels=classes, logits=logits).astype(np.float64)).tolist() == [
            False,
            True,
            False,
        ]


# --- sparse labels

SPARSE_ROWS = [
    ("-inf not at the label", [-INF, 0, 1], 1, A, [0, -Q, Q]),
    ("-inf at the label", [-INF, 0, 1], 0, INF, [-1, P, Q]),
    ("all -inf", [-INF, -INF, -INF], 0, NAN, ALL_NAN),
    ("+inf at the label", [INF, 0, 0], 0, NAN, ALL_NAN),
    ("+inf elsewhere", [INF, 0, 0], 1, NAN, ALL_NAN),
    ("NaN at the label", [NAN, 0, 1], 0, NAN, ALL_NAN),
    ("NaN elsewhere", [NAN, 0, 1], 2, NAN, ALL_NAN),
    ("far apart, right", [1000, 0, -1000], 0, 0, [0, 0, 0]),
    ("far apart, wrong", [1000, 0, -1000], 2, 2000, [1, 0, -1]),
]


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize(
    ("logits", "label", "loss", "grad"),
    [r[1:] for r in SPARSE_ROWS],
    ids=[r[0] for r in SPARSE_ROWS],
)
def test_sparse(
    logits: list, label: int, loss: float, grad: list, dtype: np.dtype, long: bool
) -> None:
    """Class numbers: only the logit at the label is looked at beside the sum."""
    z, want = np.array(logits, np.float64), np.array(grad, np.float64)
    if long:
        place = 3210
        z, want = np.full(5000, -INF), np.full(5000, NAN if np.isnan(loss) else 0.0)
        z[place : place + 3], want[place : place + 3] = logits, grad
        label += place
    z = array(z, dtype)
    fn = xent.value_and_grad(SPARSE)
    value, dz = fn(labels=np.int32(label), logits=z)
    check(value, loss, dtype)
    check(dz, want, dtype)
    value, dz = fn(labels=np.full(4, label), logits=np.stack([z] * 4))
    check(value, [loss] * 4, dtype)
    check(dz, [want] * 4, dtype)
    check(SPARSE(labels=np.full(4, label), logits=np.stack([z] * 4)), [loss] * 4, dtype)
    args = {"labels": np.full(4, label), "logits": np.stack([z] * 4), "reduction": "none"}
    value, dz = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)(**args)
    check(value, [loss] * 4, dtype)
    check(dz, [want] * 4, dtype)


def test_sparse_label_outside_of_huge_logits() -> None:
    """The distance to the label may overflow float32; the loss is then +inf, as its rounding."""
    logits = np.array([[3e38, -3e38, 0]] * 3, np.float32)
    value, grad = xent.value_and_grad(SPARSE)(labels=np.arange(3), logits=logits)
    np.testing.assert_allclose(value, np.float32([0, INF, 3e38]), rtol=3e-7)
    np.testing.assert_array_equal(grad, [[0, 0, 0], [1, -1, 0], [1, 0, -1]])


# --- smoothing, weights


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_smoothing_pays_for_masked_classes(dtype: np.dtype) -> None:
    """Smoothing gives every class a label above 0, so a masked class costs +inf."""
    logits = array([[-INF, 0, 1]], dtype)
    labels = array([[0, 1, 0]], dtype)
    loss = xent.losses.softmax_cross_entropy
    for amount in (0.1, 1, 1e-30):
        value, grad = xent.value_and_grad(loss)(labels, logits, label_smoothing=amount)
        assert value == INF
        smoothed = np.array([0, 1, 0]) * (1 - amount) + amount / 3
        check(grad, [np.array([0, P, Q]) - smoothed], dtype)
    value, grad = xent.value_and_grad(loss)(labels, logits, label_smoothing=-0.1)
    check(value, A, dtype)
    check(grad, [[0, -Q, Q]], dtype)
    value, grad = xent.value_and_grad(loss)(labels, logits, label_smoothing=INF)
    assert np.isnan(value)


@pytest.mark.parametrize("reduction", oracle.REDUCTIONS)
@pytest.mark.parametrize(
    "weights", [[0, 1], [0, 0], [1, 0], [NAN, 1], [INF, 1], [-1, 1], [-0.0, 1]]
)
@pytest.mark.parametrize("first", [[NAN, 0, 1], [-INF, 0, 1], [INF, 0, 1], [0, 0, 1]])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_weights_of_bad_rows(
    dtype: np.dtype, first: list[float], weights: list[float], reduction: str
) -> None:
    """A weight of 0 does not mask a NaN, but a masked class has no NaN to mask."""
    logits = array([first, [0, 5, -1]], dtype)
    labels = array([[0, 0, 1], [0, 1, 0]], dtype)
    classes = np.array([2, 1])
    w = array(weights, dtype)
    wrt = ("logits", "weights")
    for fn, ours, label in (
        (xent.losses.softmax_cross_entropy, oracle.softmax_loss, labels),
        (xent.losses.sparse_softmax_cross_entropy, oracle.sparse_loss, classes),
    ):
        want = ours(label, logits, weights=w, reduction=reduction)
        value, grads = xent.value_and_grad(fn, wrt=wrt)(
            label, logits, weights=w, reduction=reduction
        )
        check(value, want.value, dtype)
        check(grads[0], want.grads["logits"], dtype)
        check(grads[1], want.grads["weights"], dtype)
        check(fn(label, logits, weights=w, reduction=reduction), want.value, dtype)


def test_summed_label_gradients_overflow_in_silence() -> None:
    """The gradient of broadcast labels is a sum, which may be too large for a half."""
    logits = array([[[0] * 9 + [60_000]] * 4], F16)
    labels = array(np.ones((1, 1, 10)), F16)
    _, grad = xent.value_and_grad(V2, wrt="labels")(labels, logits)
    np.testing.assert_array_equal(grad.astype(np.float64), [[[INF] * 9 + [0]]])


# --- denormal numbers


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n", [2, 3, 16, 17, 100, 5000])
def test_denormal_gradients_are_kept(n: int, axis: int) -> None:
    """exp(-88 ... -103) is below the smallest normal float32, and not 0."""
    distances = np.array([-87.5, -88, -90, -95, -100, -103], np.float32)
    logits = np.zeros((6, n), np.float32)
    logits[:, 1:] = -INF
    logits[:, n // 2] = distances
    labels = np.zeros_like(logits)
    labels[:, 0] = 1
    want = np.exp(distances.astype(np.float64))
    assert (want < np.finfo(np.float32).tiny).all()
    if axis == 0:
        labels, logits = np.ascontiguousarray(labels.T), np.ascontiguousarray(logits.T)
    _, grad = xent.value_and_grad(V2)(labels, logits, axis=axis)
    got = grad.take(n // 2, axis).astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1.5e-45)
    assert (got > 0).all()
    if axis == 1:
        _, grad = xent.value_and_grad(SPARSE)(labels=np.zeros(6, np.int32), logits=logits)
        np.testing.assert_allclose(grad[:, n // 2], want, rtol=1e-6, atol=1.5e-45)


def test_denormal_gradients_are_kept_in_float64() -> None:
    """exp(-709 ... -744), with some of the digits of a denormal number."""
    distances = np.array([-709, -720, -735, -744], np.float64)
    logits = np.stack([np.zeros(4), distances], 1)
    labels = np.array([[1.0, 0.0]] * 4)
    _, grad = xent.value_and_grad(V2)(labels, logits)
    want = np.exp(distances.astype(np.longdouble)).astype(np.float64)
    np.testing.assert_allclose(grad[:, 1], want, rtol=1e-14, atol=5e-324)
    assert (grad[:, 1] > 0).all()


@pytest.mark.parametrize("dtype", [F32, F16, BFLOAT16], ids=lambda dtype: dtype.name)
def test_denormal_inputs_are_kept(dtype: np.dtype) -> None:
    """A label, a weight or an upstream gradient below the smallest normal number still counts."""
    small = array(2.0 ** {F16: -20, F32: -140, BFLOAT16: -130}[dtype], dtype)
    assert small > 0
    logits = array([[0, 8], [0, 8]], dtype)
    labels = array([[0, 1], [0, 1]], dtype)
    labels[0] = small, 0
    value, grad = xent.value_and_grad(V2)(labels, logits)
    # 8.0003 times the label
    check(value, [float(small) * 8.000335406372896, 3.354063728956e-4], dtype)
    assert value[0] > 0
    sums = xent.losses.softmax_cross_entropy(
        labels,
        logits,
        weights=np.array([small, 1]).astype(dtype),
        reduction="weighted_sum_by_nonzero_weights",
    )
    # Two weights are present: half of the second loss.
    check(sums, 3.354063728956e-4 / 2, dtype)
    losses = array([1, 1], dtype)
    weights = array([0, float(small)], dtype)
    value, grad = xent.value_and_grad(xent.losses.compute_weighted_loss, wrt="losses")(
        losses, weights, reduction="none"
    )
    assert_same_bits(value, weights)
    assert_same_bits(grad, weights)
    _, grad = xent.value_and_grad(SPARSE)(
        labels=np.array([0, 1]),
        logits=np.zeros((2, 2), dtype),
        upstream=np.full(2, small * 4).astype(dtype),
    )
    want = float(small) * 2
    np.testing.assert_array_equal(grad.astype(np.float64), [[-want, want], [want, -want]])


# --- signs of zero


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_a_certain_loss_is_plus_zero(dtype: np.dtype) -> None:
    """No -0 where nothing is lost."""
    for logits, labels in (([[5]], [[1]]), ([[1000, 0]], [[1, 0]]), ([[0, -INF]], [[1, 0]])):
        z, label = array(logits, dtype), array(labels, dtype)
        for value in (V2(label, z), SPARSE(labels=np.zeros(1, np.int32), logits=z)):
            assert value[0] == 0
            assert not np.signbit(value.astype(np.float64))[0]
