"""The compiled PTX of the CUDA kernels, executed and compared with the oracle and the CPU.

No GPU is needed, and none is used. Besides wrong results the interpreter reports accesses out of
bounds, misaligned accesses, reads of what nobody wrote, races and divergent barriers.
"""

import numpy as np
import oracle
import pytest
import test_special_values as special
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BFLOAT16, DTYPES, hard, soft

import numba_xent as xent

pytest.importorskip("numba_cuda", reason="the CUDA kernels are compiled by numba-cuda")

import golden_cases
import ptx
import test_golden as recorded
from ptx_solver import CAPABILITY, PROCESSORS, Meta, make_plan, program, solve

from numba_xent._cuda.task import Task, Tensor, flat

F16, F32, F64 = (np.dtype(t) for t in (np.float16, np.float32, np.float64))
V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SPARSE = xent.nn.sparse_softmax_cross_entropy_with_logits

SLOW = pytest.mark.slow
ROWS_8, ROWS_32, ROWS_512, SPLIT = 57, 1000, 5000, 20_001
WARP_CLASSES = 512  # that a warp holds at least

LOSS_ULP = {F16: 0.51, BFLOAT16: 0.51, F32: 2.0, F64: 4.0}
"""How far losses may be from the exact ones, in units in the last place, times max(1, kappa).

kappa is the condition number of the loss, as in the tests of the CPU's accuracy.
"""
GRADIENT = {F16: 5e-4, BFLOAT16: 4e-3, F32: 1e-7, F64: 4e-16}
"""How far gradients by logits may be from the exact ones, absolutely.

Those by labels are losses, each of its own class: they have that loss's condition number.
"""
LABEL_GRADIENT_ULP = {F16: 0.51, BFLOAT16: 0.51, F32: 3.0, F64: 3.0}
"""As `LOSS_ULP`; in the compute dtype the product is rounded, too."""


def problem(shape, axis, dtype, label_kind="soft", seed=0, scale=2.0):
    """Logits and labels; integer labels for "sparse"."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=shape) * scale).astype(dtype)
    if label_kind == "sparse":
        batch = shape[:axis] + shape[axis + 1 :]
        return rng.integers(0, shape[axis], batch), logits
    return {"soft": soft, "hard": hard}[label_kind](rng, shape, axis).astype(dtype), logits


def exact(labels, logits, axis, upstream=None):
    """The oracle's answer, for either kind of labels."""
    if labels.ndim == logits.ndim:
        return oracle.dense(labels, logits, axis, upstream)
    answer = oracle.sparse(labels, np.moveaxis(logits, axis, -1), upstream)
    answer.grads["logits"] = np.moveaxis(answer.grads["logits"], -1, axis)
    return answer


def kappa(labels, logits, axis):
    """The condition number of each loss, at least 1."""
    if labels.ndim < logits.ndim:
        labels = np.moveaxis(oracle.one_hot(labels, logits.shape[axis]), -1, axis)
    found = oracle.condition(labels, logits, axis)
    return np.clip(np.nan_to_num(found, nan=1.0, posinf=104.0), 1.0, 104.0)


def kappa_of_classes(logits, axis):
    """The condition numbers of minus log-softmax: of the loss for each class, if it is the label."""
    z = oracle.wide(logits, logits.dtype)
    p, cost = oracle.log_softmax(z, axis)
    distance = z.max(axis, keepdims=True) - z
    with np.errstate(divide="ignore", invalid="ignore"):
        found = ((p * distance).sum(axis, keepdims=True) + (1 - 2 * p) * distance) / cost
    return np.clip(np.nan_to_num(found, nan=1.0, posinf=104.0), 1.0, 104.0)


def check(solution, answer, dtype, labels, logits, axis=-1, *, size=1.0, more_ulp=0.0):
    """Assert that losses and gradients are close to the oracle's.

    `size` is what gradients are multiplied with, `more_ulp` what losses are allowed in addition.
    """
    condition = kappa(labels, logits, axis)
    error = oracle.error_in_ulp(solution.losses, answer.value, dtype)
    assert (error <= (LOSS_ULP[dtype] + more_ulp) * condition).all(), float(
        (error / condition).max()
    )
    for name, got in solution.grads.items():
        want = answer.grads[name]
        if name == "labels":
            error = oracle.error_in_ulp(got, want, dtype) / kappa_of_classes(logits, axis)
            assert error.max() <= LABEL_GRADIENT_ULP[dtype], float(error.max())
        else:
            error = np.abs(got.astype(np.longdouble) - want) / size
            limit = GRADIENT[dtype] * (1 + more_ulp)
            assert error.max() <= limit, float(error.max())


def run(dtype, kind, shape, axis, family, **options):
    """Solve a problem with a kernel of a family, and check the result."""
    labels, logits = problem(shape, axis, dtype, kind)
    found = solve(labels, logits, axis, **options)
    assert found.plan.launches[-1].choice.family == family
    check(found, exact(labels, logits, axis), dtype, labels, logits, axis)
    return found


# ---- every kernel ---------------------------------------------------------------------------

PROCESSORS_OF_A_GPU = 132
SHAPES = {  # lengths and axis, family, what else
    "one class": ((3, 1), 1, "rows", {}),
    "8 threads": ((5, 57), 1, "rows", {}),
    "warp": ((5, 230), 1, "rows", {}),
    "128 threads": ((2, 1003), 1, "rows", {}),
    "block": ((1, 4003), 1, "rows", {}),
    "cluster": ((1, 17_001), 1, "rows", {}),
    "online": ((1, 17_001), 1, "online", {"clusters": False}),
    "split": ((1, 17_001), 1, "finish_split", {"processors": PROCESSORS_OF_A_GPU}),
    "few classes": ((2, 2, 16), 1, "columns", {}),
    "columns held": ((2, 37, 8), 1, "columns", {}),
    "columns": ((1, 600, 8), 1, "columns", {}),
    "odd columns": ((2, 37, 7), 1, "columns", {}),
}
WRT = {"soft": (("logits",), (), ("labels",), ("logits", "labels")), "sparse": (("logits",), ())}
OFTEN = {"8 threads", "block", "cluster", "columns held", "columns", "split"}


def kernels_to_run():
    """Every shape, dtype, kind of labels and gradient; some of them always, the others if slow."""
    for shape in SHAPES:
        for dtype in DTYPES:
            for kind, wrts in WRT.items():
                for wrt in wrts:
                    for smoothing in (
                        (0.0, 0.1) if kind == "soft" and "labels" not in wrt else (0.0,)
                    ):
                        plain = wrt == ("logits",) and smoothing == 0.0
                        flags = shape in {"warp", "columns held"} and dtype == F32
                        always = (plain and (dtype == F32 or shape in OFTEN)) or flags
                        marks = [SLOW] * (not always)
                        yield pytest.param(
                            shape, dtype, kind, wrt, smoothing, marks=marks,
                            id=f"{shape}-{dtype}-{kind}-{'+'.join(wrt)}-{smoothing}",
                        )  # fmt: skip


@pytest.mark.parametrize(("where", "dtype", "kind", "wrt", "smoothing"), list(kernels_to_run()))
def test_kernels(where, dtype, kind, wrt, smoothing):
    """Each kernel solves a problem of its shape."""
    shape, axis, family, options = SHAPES[where]
    labels, logits = problem(shape, axis, dtype, kind)
    found = solve(labels, logits, axis, wrt=wrt, smoothing=smoothing, **options)
    assert found.plan.launches[-1].choice.family == family
    smoothed = labels
    if smoothing:
        wide = labels.astype(np.longdouble if dtype == F64 else np.float64)
        smoothed = wide * (1 - smoothing) + smoothing / shape[axis]
    check(found, exact(smoothed, logits, axis), dtype, smoothed, logits, axis)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("where", ["8 threads", "few classes", "columns held"])
def test_label_gradients_where_a_class_is_nearly_certain(where, dtype):
    """Minus its logarithm is next to nothing, and is as exact as the logits allow."""
    shape, axis, _, options = SHAPES[where]
    for seed in range(4):
        labels, logits = problem(shape, axis, dtype, seed=seed, scale=8.0)
        found = solve(labels, logits, axis, wrt=("labels",), **options)
        check(found, exact(labels, logits, axis), dtype, labels, logits, axis)


@pytest.mark.parametrize("dtype", [F32, pytest.param(F64, marks=SLOW), BFLOAT16], ids=str)
@pytest.mark.parametrize("kind", ["soft", "sparse"])
@pytest.mark.parametrize(
    ("n", "options"),
    [
        (57, {}),
        pytest.param(4003, {}, marks=SLOW),
        pytest.param(17_001, {}, marks=SLOW),
        (17_001, {"clusters": False}),
        pytest.param(17_001, {"processors": PROCESSORS_OF_A_GPU}, marks=SLOW),
    ],
)
def test_any_base(n, options, kind, dtype):
    """Rows that begin anywhere between two vectors: ragged at both ends, still in vectors."""
    step = dtype.itemsize
    for offset in (step, 16 - step):
        at = {"offset": offset, "label_offset": offset if kind == "soft" else 0}
        run(dtype, kind, (2 if n < 100 else 1, n), 1, solve_family(n, options), **at, **options)


def solve_family(n, options):
    """Which kernel a row is for."""
    if n < 10_000 or not options:
        return "rows"
    return "online" if "clusters" in options else "finish_split"


@pytest.mark.parametrize("shape", [(3, 57), pytest.param((1, 4003), marks=SLOW), (2, 37, 8)])
@pytest.mark.parametrize("kind", ["soft", "sparse"])
def test_operands_that_are_not_cut_alike(kind, shape):
    """A gradient that begins elsewhere is written number by number."""
    run(F32, kind, shape, 1, "rows" if len(shape) == 2 else "columns", gradient_offset=4)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 64),
    rows=st.integers(1, 20),
    gap=st.integers(0, 5),
    offsets=st.tuples(*[st.integers(0, 15)] * 3),
    kind=st.sampled_from(("soft", "sparse")),
    in_place=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_small_rows(n, rows, gap, offsets, kind, in_place, seed):
    """Ragged class counts, odd strides between rows, and bases of any alignment."""
    labels, logits = problem((rows, n), 1, F32, kind, seed)
    answer = exact(labels, logits, 1)
    whole = np.zeros((rows, n + gap), np.float32)
    whole[:, :n] = logits
    found = solve(
        labels,
        whole[:, :n],
        offset=4 * offsets[0],
        label_offset=8 * offsets[1],
        gradient_offset=4 * offsets[2],
        in_place=in_place,
    )
    check(found, answer, F32, labels, logits)


@pytest.mark.parametrize("stride", [-1, 2, 3])
def test_strided_classes(stride):
    """Classes that do not lie side by side, also backwards."""
    labels, logits = problem((5, 40), 1, F32)
    whole = np.zeros((5, 40 * abs(stride)), np.float32)
    view = whole[:, ::stride]
    view[:] = logits
    check(solve(labels, view, 1), exact(labels, logits, 1), F32, labels, logits)


# ---- operands -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "n"),
    [("soft", 7), ("sparse", ROWS_32), ("sparse", SPLIT), pytest.param("soft", SPLIT, marks=SLOW)],
)
def test_in_place(kind, n):
    """The gradient may replace the logits: nothing is read after somebody else wrote it."""
    labels, logits = problem((2, n), 1, F32, kind)
    found = solve(labels, logits.copy(), in_place=True)
    check(found, exact(labels, logits, 1), F32, labels, logits)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", ["soft", "sparse"])
def test_in_place_columns(kind, in_place):
    """The same for columns."""
    labels, logits = problem((2, 40, 33), 1, F32, kind)
    found = solve(labels, logits.copy(), 1, in_place=in_place)
    check(found, exact(labels, logits, 1), F32, labels, logits, 1)


@pytest.mark.parametrize("label_shape", [(1, 1, 40), (2, 1, 40), (2, 3, 1), (1, 1, 1)])
def test_broadcast_labels(label_shape):
    """Labels that are read again and again, not copied."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 40)).astype(np.float32)
    labels = rng.random(label_shape).astype(np.float32)
    wide = np.broadcast_to(labels, logits.shape)
    check(solve(labels, logits, 2), exact(labels, logits, 2), F32, wide, logits, size=20.0)


@pytest.mark.parametrize(
    "label_dtype", ["int32", *(pytest.param(t, marks=SLOW) for t in ("bool", "float64"))]
)
def test_labels_of_another_dtype(label_dtype):
    """Labels in their own dtype."""
    labels, logits = problem((4, 57), 1, F32, "hard")
    labels = labels.astype(label_dtype)
    check(solve(labels, logits), exact(labels, logits, 1), F32, labels, logits)


@pytest.mark.parametrize("label_dtype", [np.int32, np.int64])
@pytest.mark.parametrize(("shape", "axis"), [((6, 57), 1), ((1, 20_001), 1), ((2, 9, 7), 1)])
def test_labels_out_of_range(label_dtype, shape, axis):
    """NaN losses and rows of NaN, and no access out of bounds."""
    labels, logits = problem(shape, axis, F32, "sparse")
    labels = labels.astype(label_dtype)
    bad = [-1, shape[axis], np.iinfo(label_dtype).min, np.iinfo(label_dtype).max]
    flat_labels = labels.reshape(-1)
    answer = exact(labels, logits, axis)
    n = min(len(bad), labels.size)
    flat_labels[:n] = bad[:n]
    found = solve(labels, logits, axis)
    losses = found.losses.reshape(-1)
    grads = np.moveaxis(found.grads["logits"], axis, -1).reshape(-1, shape[axis])
    assert np.isnan(losses[:n]).all()
    assert np.isnan(grads[:n]).all()
    want = np.moveaxis(answer.grads["logits"], axis, -1).reshape(-1, shape[axis])
    np.testing.assert_allclose(losses[n:], answer.value.reshape(-1)[n:], rtol=1e-6)
    np.testing.assert_allclose(grads[n:], want[n:], atol=1e-7)


@pytest.mark.parametrize(("n", "axis"), [(57, 2), (40, 1)])
def test_weights_upstream_and_smoothing(n, axis):
    """The factors of losses and gradients, each of its own shape."""
    rng = np.random.default_rng(1)
    shape = (2, 3, n) if axis == 2 else (2, n, 3)
    labels, logits = problem(shape, axis, F32)
    weights = rng.random((2, 1)).astype(np.float32)
    upstream = rng.normal(size=(2, 3)).astype(np.float32)
    smoothed = labels.astype(np.float64) * (1 - 0.1) + 0.1 / n
    wide = np.broadcast_to(weights, (2, 3)).astype(np.float64)
    plain = oracle.dense(smoothed, logits.astype(np.float64), axis)
    answer = oracle.dense(smoothed, logits.astype(np.float64), axis, 3.0 * upstream * wide)
    answer.value = plain.value * wide
    found = solve(
        labels, logits, axis, weights=weights, upstream=upstream, smoothing=0.1, scale=3.0
    )
    check(found, answer, F32, smoothed, logits, axis, size=10.0, more_ulp=1.0)
    raw = solve(labels, logits, axis, weights=weights, smoothing=0.1, raw=True)
    answer.value = plain.value
    raw.grads = {}
    check(raw, answer, F32, smoothed, logits, axis)


# ---- numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "dtype", [F32, *(pytest.param(t, marks=SLOW) for t in (F64, F16, BFLOAT16))], ids=str
)
def test_special_values(dtype, axis):
    """The table that the CPU is tested with: infinities, NaN, huge distances, denormals."""
    rows = [row for row in special.ROWS if dtype in row.dtypes]
    columns = [
        np.array([getattr(row, name) for row in rows])
        for name in ("labels", "logits", "dlogits", "dlabels")
    ]
    if axis == 0:
        columns = [np.ascontiguousarray(a.T) for a in columns]
    labels, logits = (special.array(a, dtype) for a in columns[:2])
    found = solve(labels, logits, axis, wrt=("logits", "labels"))
    special.check(found.losses, np.array([row.loss for row in rows]), dtype)
    special.check(found.grads["logits"], columns[2], dtype)
    special.check(found.grads["labels"], columns[3], dtype)


@pytest.mark.parametrize("n", [ROWS_32, *(pytest.param(n, marks=SLOW) for n in (ROWS_512, SPLIT))])
def test_special_values_in_long_rows(n):
    """The same among many masked classes, which cost nothing."""
    rows = [row for row in special.ROWS if F32 in row.dtypes]
    labels, logits, dlogits = np.zeros((3, len(rows), n))
    logits[:] = -np.inf
    for i, row in enumerate(rows):
        at = slice(n // 2 + i, n // 2 + i + 3)
        dlogits[i] = np.nan if np.isnan(row.dlabels).any() else 0
        logits[i, at], labels[i, at], dlogits[i, at] = row.logits, row.labels, row.dlogits
    labels, logits = special.array(labels, F32), special.array(logits, F32)
    found = solve(labels, logits)
    special.check(found.losses, np.array([row.loss for row in rows]), F32)
    special.check(found.grads["logits"], dlogits, F32)


@pytest.mark.parametrize("n", [ROWS_8, ROWS_32, pytest.param(SPLIT, marks=SLOW)])
def test_an_offset_of_the_logits_changes_nothing(n):
    """The error does not grow with it, where the logits themselves can be told apart."""
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(size=(2, n)) * 64) / 64
    labels = soft(rng, (2, n), 1).astype(np.float32)
    first = solve(labels, logits.astype(np.float32))
    for offset in (100.0, 4096.0, -65536.0):
        shifted = solve(labels, (logits + offset).astype(np.float32))
        assert np.array_equal(shifted.losses, first.losses)
        assert np.array_equal(shifted.grads["logits"], first.grads["logits"])


def test_confident_rows():
    """A tiny loss keeps its digits, but for what the rounding of large distances costs."""
    logits = np.array([[30, 0, 0], [0, 80, 1], [10, -5, -6]], np.float32)
    labels = np.array([0, 1, 0])
    check(solve(labels, logits), oracle.sparse(labels, logits), F32, labels, logits)


def test_small_probabilities():
    """Subnormal gradients are not flushed."""
    logits = np.array([[0, -90, -100]], np.float32)
    gradient = solve(np.array([0]), logits).grads["logits"]
    np.testing.assert_allclose(gradient[0, 1:], np.exp([-90.0, -100.0]), rtol=3e-6, atol=3e-45)


@pytest.mark.parametrize("kind", ["soft", "sparse"])
@pytest.mark.parametrize("sign", [-1, 0, 1])
@pytest.mark.parametrize("n", [2, ROWS_8, ROWS_32, pytest.param(4003, marks=SLOW)])
def test_approximate_instructions(n, sign, kind):
    """``ex2`` and ``rcp`` may be wrong by two units on a GPU: what that costs is bounded.

    A unit is at most 2**-23 of a power, and so of the sum of powers and of the loss, which is less
    than two units of the loss; where warps of different maxima are merged a power is a product of
    two. A probability p is wrong by p (1 - p) <= 1/4 of it, and ``rcp`` does not count, since
    Newton's step corrects it. So with k = 2, the loss has 2 k or 4 k units more, and the gradient
    k 2**-23 / 4 or k 2**-23 / 2, less than 0.6 or 1.2 times what is allowed without.
    """
    labels, logits = problem((8, n), 1, F32, kind)
    found = solve(labels, logits, approx_ulp=2, approx_sign=sign)
    answer = exact(labels, logits, 1)
    more = 4.0 if n <= WARP_CLASSES else 8.0
    gradient = found.grads.pop("logits")
    check(found, answer, F32, labels, logits, more_ulp=more)
    limit = GRADIENT[F32] + more / 4 * 2.0**-24
    assert np.abs(gradient - answer.grads["logits"]).max() <= limit


@pytest.mark.parametrize("kind", ["soft", "sparse"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 57), 1), ((3, 1000), 1), ((2, 40, 33), 1)])
def test_as_on_the_cpu(kind, shape, axis):
    """The same numbers as the CPU's, but for the last bits."""
    labels, logits = problem(shape, axis, F32, kind)
    found = solve(labels, logits, axis)
    if kind == "soft":
        value, grad = xent.value_and_grad(V2)(labels, logits, axis=axis)
    else:
        value, grad = xent.value_and_grad(SPARSE)(
            labels=labels, logits=np.moveaxis(logits, axis, -1)
        )
        grad = np.moveaxis(grad, -1, axis)
    np.testing.assert_allclose(found.losses, value, rtol=1e-6)
    np.testing.assert_allclose(found.grads["logits"], grad, atol=1e-7)


def golden():
    """Recorded calls of ``tf.nn`` whose arrays the kernels can solve as they are.

    Left out are shapes that TensorFlow flattens, and classes so far apart that it gives NaN.
    """
    for case in golden_cases.cases():
        outcome = case.raw["expect"].get(golden_cases.MAIN, {})
        if not case.fn.startswith("nn.") or "grads" not in outcome or case.upstream is not None:
            continue
        given = recorded.operands(case)
        labels, logits = given["labels"], given["logits"]
        if not isinstance(logits, np.ndarray) or not isinstance(labels, np.ndarray):
            continue
        sparse = "sparse" in case.fn
        axis = given.get("axis", given.get("dim"))
        if (
            labels.ndim != logits.ndim - sparse
            or logits.size == 0
            or labels.dtype.kind not in "fVi"
        ):
            continue
        if not sparse and labels.shape != logits.shape:
            continue
        size = np.abs(logits.astype(np.float64))
        if (size > 1e38).any() or outcome["grads"]["logits"] is None:
            continue
        slow = [] if logits.dtype == F32 and (axis in (None, -1)) else [pytest.mark.slow]
        yield pytest.param(case, labels, logits, axis, id=case.id, marks=slow)


@pytest.mark.parametrize(("case", "labels", "logits", "axis"), list(golden()))
def test_golden(case, labels, logits, axis):
    """What TensorFlow computed."""
    outcome = case.outcome()
    found = solve(labels, logits, -1 if axis is None else int(axis))
    tolerance = {
        F32: {"rtol": 2e-6, "atol": 2e-6},
        F64: {"rtol": 1e-13, "atol": 1e-13},
        F16: {"rtol": 4e-3, "atol": 1e-3},
        BFLOAT16: {"rtol": 4e-2, "atol": 8e-3},
    }[logits.dtype]
    for got, want in (
        (found.losses, outcome["loss"]),
        (found.grads["logits"], outcome["grads"]["logits"]),
    ):
        finite = np.isfinite(want.astype(np.float64))
        found_there, wanted = got.astype(np.float64), want.astype(np.float64)
        np.testing.assert_allclose(found_there[finite], wanted[finite], **tolerance)
        assert not np.isfinite(found_there[~finite]).any()


# ---- memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "n"),
    [
        ("soft", ROWS_32),
        ("sparse", ROWS_512),
        *(pytest.param(k, 8001, marks=SLOW) for k in ("soft", "sparse")),
    ],
)
def test_rows_are_read_once_and_written_once(kind, n):
    """The bytes asked for are those of the arrays, and so are the sectors that hold them."""
    labels, logits = problem((3, n), 1, F32, kind)
    found = solve(labels, logits, offset=4, label_offset=4 if kind == "soft" else 0)
    least = logits.nbytes * (3 if kind == "soft" else 2)
    (counts,) = found.counts
    # Each thread of a block asks for the label, which is one access for each warp.
    asked = counts.loaded + counts.stored - (8 * 3 * 512 if kind == "sparse" else 0)
    assert asked <= 1.02 * least
    assert counts.dram <= 1.02 * least


def test_more_than_two_to_the_31_elements():
    """Rows far beyond 32-bit offsets, with little memory: only their own bytes exist."""
    n, rows = 50, 1 << 28
    rng = np.random.default_rng(0)
    block, groups = rows // 16 - 1, 16
    logits = rng.normal(size=(groups, n)).astype(np.float32)
    labels = rng.integers(0, n, groups)
    first = block * groups
    metas = [
        Meta("float32", (rows, n), (4 * n, 4)),
        Meta("int64", (rows,), (8,)),
        Meta("float32", (rows, n), (4 * n, 4)),
        None,
        None,
        None,
    ]
    assert first * n > 2**33
    plan = make_plan(1, True, tuple(metas), PROCESSORS)
    (launch,) = plan.launches
    memory = ptx.Memory()
    at = memory.buffer(logits) - first * n * 4
    at_labels = memory.buffer(labels) - first * 8
    out = memory.buffer(np.zeros_like(logits), writable=True, known=False) - first * n * 4
    losses = memory.buffer(np.zeros(groups, np.float32), writable=True, known=False) - first * 4
    task = plan.task(
        (at, at_labels, out, 0, 0, 0),
        {"losses": losses, "raw": 0, "wide": 1, "states": 0, "scale_at": 0,
         "keep": 1.0, "uniform": 0.0, "scale": 1.0, "weight": 1.0},
    )  # fmt: skip
    ptx.launch(program(launch.choice), memory, launch.grid, (launch.choice.threads,),
               flat(task), only=(block, 1))  # fmt: skip
    answer = oracle.sparse(labels, logits)
    got = memory.read(losses + first * 4, groups, np.float32)
    np.testing.assert_allclose(got, answer.value, rtol=1e-6)
    got = memory.read(out + first * n * 4, logits.shape, np.float32)
    np.testing.assert_allclose(got, answer.grads["logits"], atol=1e-7)


def test_unreachable_strides():
    """Batch axes that are no two evenly strided axes are refused before any launch."""
    metas = [
        Meta("float32", (2, 3, 4, 8), (1024, 320, 64, 4)),
        Meta("float32", (2, 3, 4, 8), (4, 1024, 128, 16)),
        *[None] * 4,
    ]
    with pytest.raises(ValueError, match=r"(labels|logits) cannot be read in place"):
        make_plan(3, False, tuple(metas), PROCESSORS)


def test_the_task_is_flat():
    """As many numbers as the kernel has parameters."""
    labels, logits = problem((2, 3), 1, F32)
    found = solve(labels, logits)
    parameters = program(found.plan.launches[0].choice).parameters
    none = Tensor(0, 0, 0, 0)
    assert len(flat(Task(*[none] * 6, *[0] * 13))) == len(parameters)
    assert CAPABILITY == (9, 0)
