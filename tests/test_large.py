"""Large problems: gradients written past the caches, and examples cut into pieces."""

import itertools
from typing import Any

import ml_dtypes
import numba
import numpy as np
import oracle
import pytest

import numba_xent as xent
from numba_xent._cpu.cutting import KEPT, STREAMED

V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SPARSE = xent.nn.sparse_softmax_cross_entropy_with_logits
DTYPES = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]
THREADS = sorted({1, numba.config.NUMBA_NUM_THREADS})
GUARD = 0xA5


def random(shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels for each class, and class numbers."""
    rng = np.random.default_rng(shape[0])
    logits = (4 * rng.standard_normal(shape, np.float32)).astype(dtype)
    labels = rng.random(shape, np.float32).astype(dtype)
    return logits, labels, rng.integers(0, shape[1], shape[0])


def guarded(shape: tuple[int, ...], dtype: np.dtype, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """An array that begins `offset` elements after a cache line, and the bytes around it."""
    size = int(np.prod(shape)) * dtype.itemsize
    around = np.full(size + 512, GUARD, np.uint8)
    start = -around.ctypes.data % 64 + 64 + offset * dtype.itemsize
    return around[start : start + size].view(dtype).reshape(shape), around


def in_slices(fn: Any, labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient of a few examples at a time: too few to be written past the caches."""
    step = max(1, 100_000 // logits.shape[1])
    both = xent.value_and_grad(fn)
    parts = [
        both(labels=labels[i : i + step], logits=logits[i : i + step])
        for i in range(0, len(logits), step)
    ]
    values, gradients = zip(*parts, strict=True)
    return np.concatenate(values), np.concatenate(gradients)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 7, 64, 65, 1000, 4111])
def test_streamed_gradient(classes: int, dtype: np.dtype) -> None:
    """At any alignment the same bits as in small slices, and not a byte beside them."""
    rows = STREAMED // (classes * dtype.itemsize) + 3
    logits, labels, index = random((rows, classes), dtype)
    for fn, target in ((V2, labels), (SPARSE, index)):
        value, gradient = in_slices(fn, target, logits)
        for offset in (0, 1, 5, 64 // dtype.itemsize - 1):
            out, around = guarded(logits.shape, dtype, offset)
            assert out.nbytes >= STREAMED
            got, same = xent.value_and_grad(fn)(labels=target, logits=logits, out=out)
            assert same is out
            assert got.tobytes() == value.tobytes()
            assert out.tobytes() == gradient.tobytes()
            assert (around == GUARD).sum() >= 512
            assert (around[:64] == GUARD).all()
            assert (around[-128:] == GUARD).all()


def test_streamed_with_gaps() -> None:
    """Examples that do not follow each other in memory keep what lies between them."""
    logits, labels, _ = random((1200, 1000), np.float32)
    _, gradient = in_slices(V2, labels, logits)
    room = np.full((1200, 1003), 77, np.float32)
    xent.value_and_grad(V2)(labels, logits, out=room[:, :1000])
    assert room[:, :1000].tobytes() == gradient.tobytes()
    assert (room[:, 1000:] == 77).all()


def test_streamed_in_place() -> None:
    """The gradient may take the place of the logits."""
    logits, labels, _ = random((1200, 1000), np.float32)
    _, gradient = in_slices(V2, labels, logits)
    xent.value_and_grad(V2)(labels, logits, out=logits)
    assert logits.tobytes() == gradient.tobytes()


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_pieces(axis: int, dtype: np.dtype) -> None:
    """Examples in several pieces: the truth, and the same bits on any number of threads."""
    classes = 2 * KEPT // dtype.itemsize + 1234
    rows, labels, index = random((3, classes), dtype)
    rows[1, -1] = 60  # a larger maximum in the last piece
    rows[2, 5] = 60
    index[:] = classes - 1, classes - 1, KEPT // dtype.itemsize
    if axis == 0:
        rows, labels = np.ascontiguousarray(rows.T), np.ascontiguousarray(labels.T)
    calls: list[tuple[Any, dict[str, Any]]] = [(V2, {"labels": labels, "axis": axis})]
    if axis == 1:
        calls.append((SPARSE, {"labels": index}))
    for fn, kwargs in calls:
        want = oracle.dense(labels, rows, axis=axis) if fn is V2 else oracle.sparse(index, rows)
        results = []
        for threads, in_place in itertools.product(THREADS, (False, True)):
            logits = rows.copy()
            out = logits if in_place else np.empty_like(logits)
            numba.set_num_threads(threads)
            try:
                alone = fn(logits=logits, **kwargs)
                value, gradient = xent.value_and_grad(fn)(logits=logits, out=out, **kwargs)
            finally:
                numba.set_num_threads(max(THREADS))
            assert alone.tobytes() == value.tobytes()
            results.append(value.tobytes() + gradient.tobytes())
        assert len(set(results)) == 1
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(value, want.value.astype(np.float64), rtol=2 * eps)
        error = np.abs(gradient - want.grads["logits"]).max()
        assert error < eps


def far(
    shape: tuple[int, int, int], dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits, soft and bool labels with the class axis in the middle, and class numbers."""
    rng = np.random.default_rng(shape[1])
    logits = (4 * rng.standard_normal(shape, np.float32)).astype(dtype)
    soft = rng.random(shape, np.float32).astype(dtype)
    index = rng.integers(0, shape[1], (shape[0], shape[2]))
    hot = index[:, None] == np.arange(shape[1])[:, None]
    return logits, soft, hot, index


def in_strips(fn: Any, target: np.ndarray, logits: np.ndarray, **kwargs: Any) -> Any:
    """Values and gradients of a few examples of each outer index at a time.

    Always of so many that the same ones are solved side by side as in the whole.
    """
    step = max(1, 100_000 // (logits.shape[0] * logits.shape[1]) // 32) * 32
    both = xent.value_and_grad(fn, **kwargs)
    parts = []
    for i in range(0, logits.shape[2], step):
        strip = logits[:, :, i : i + step]
        if target.ndim == 2:
            # Class numbers go with logits whose class axis is the last one, in name at least.
            value, gradient = both(labels=target[:, i : i + step], logits=np.moveaxis(strip, 1, 2))
            parts.append((value, np.moveaxis(gradient, 2, 1)))
        else:
            value, gradient = both(labels=target[:, :, i : i + step], logits=strip, axis=1)
            parts.append((value, gradient))
    values, gradients = zip(*parts, strict=True)
    return np.concatenate(values, -1), np.concatenate(gradients, -1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("outer", "classes", "extra"), [(1, 300, 0), (3, 21, 7), (5, 2, 1), (1, 600, 40)]
)
def test_far_classes(outer: int, classes: int, extra: int, dtype: np.dtype) -> None:
    """Classes that lie far apart: the bits of small strips, at any alignment, nothing beside them."""
    inner = STREAMED // (outer * classes * dtype.itemsize) // 64 * 64 + 64 + extra
    logits, soft, hot, index = far((outer, classes, inner), dtype)
    for target in (soft, hot):
        value, gradient = in_strips(V2, target, logits)
        for offset in (0, 1):
            out, around = guarded(logits.shape, dtype, offset)
            assert logits.nbytes >= STREAMED
            got, _ = xent.value_and_grad(V2)(target, logits, axis=1, out=out)
            assert got.tobytes() == value.tobytes()
            assert out.tobytes() == gradient.tobytes()
            assert (around[:64] == GUARD).all()
            assert (around[-128:] == GUARD).all()
        assert V2(target, logits, axis=1).tobytes() == value.tobytes()
        in_place = logits.copy()
        xent.value_and_grad(V2)(target, in_place, axis=1, out=in_place)
        assert in_place.tobytes() == gradient.tobytes()
    value, gradient = in_strips(SPARSE, index, logits)
    last = np.moveaxis(logits, 1, 2)
    got, fresh = xent.value_and_grad(SPARSE)(labels=index, logits=last)
    assert got.tobytes() == value.tobytes()
    assert np.moveaxis(fresh, 2, 1).tobytes() == gradient.tobytes()
    assert SPARSE(labels=index, logits=last).tobytes() == value.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [100, 1000, 9000])
def test_both_gradients(classes: int, dtype: np.dtype) -> None:
    """The gradient by the labels reads the logits once more, from where they were copied to."""
    rows = STREAMED // (classes * dtype.itemsize) + 3
    logits, labels, _ = random((rows, classes), dtype)
    both = xent.value_and_grad(V2, wrt=("logits", "labels"))
    value, (by_logits, by_labels) = both(labels, logits)
    for i in range(0, rows, max(1, rows // 7)):
        one = slice(i, i + 1)
        alone, (its, other) = both(labels[one], logits[one])
        assert alone.tobytes() == value[one].tobytes()
        assert its.tobytes() == by_logits[one].tobytes()
        assert other.tobytes() == by_labels[one].tobytes()
    across = xent.value_and_grad(V2, wrt="labels")
    columns = np.ascontiguousarray(logits[:, : classes // 2].T)
    weights = np.ascontiguousarray(labels[:, : classes // 2].T)
    want, by_rows = across(weights.T.copy(), columns.T.copy())
    got, by_columns = across(weights, columns, axis=0)
    # Both are computed alike and rounded once; what rounding leaves of halves is the last bit.
    rtol = {2: 2.0**-10, 4: 4 * 2.0**-23, 8: 4 * 2.0**-52}[dtype.itemsize]
    rtol = 2.0**-7 if dtype == DTYPES[3] else rtol
    np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=rtol)
    np.testing.assert_allclose(by_columns.T.astype(float), by_rows.astype(float), rtol=rtol)
