"""An example gives the same bits alone and in any batch, however the batch lies in memory."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

import numba_xent as xent

V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SPARSE = xent.nn.sparse_softmax_cross_entropy_with_logits
DTYPES = [np.dtype(t) for t in (np.float32, np.float64, np.float16)]

BATCHES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one axis": lambda a: a[0],
    "not full": lambda a: a[:, :20],
    "one over": lambda a: a[:, :17],
    "few": lambda a: a[:, :3],
    "transposed": lambda a: a.swapaxes(0, 1),
    "transposed, not full": lambda a: a[:5, :20].swapaxes(0, 1),
    "backwards": lambda a: a[::-1, 19::-1],
    "with gaps": lambda a: a[::2, ::3],
}
"""Batches of two axes that are no single one, so that units of examples are not all full."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [1, 3, 40, 65, 100, 129, 700, 5000])
def test_alone_and_in_batches(classes: int, dtype: np.dtype) -> None:
    """Neighbours of very different size in every unit."""
    rng = np.random.default_rng(classes)
    shape = (6, 25, classes)
    sizes = rng.choice([1e-3, 1, 300], size=(6, 25, 1))
    every = (sizes * rng.standard_normal(shape)).astype(dtype)
    soft = rng.random(shape).astype(dtype)
    for name, batch in BATCHES.items():
        logits, labels = batch(every), batch(soft)
        index = rng.integers(0, classes, logits.shape[:-1])
        for fn, target in ((V2, labels), (SPARSE, index)):
            both: Any = xent.value_and_grad(fn)
            value, gradient = both(labels=target, logits=logits)
            assert fn(labels=target, logits=logits).tobytes() == value.tobytes(), name
            for at in np.ndindex(*value.shape):
                one, its = both(labels=target[at][None], logits=logits[at][None])
                assert one.tobytes() == value[at].tobytes(), (name, at)
                assert its.tobytes() == gradient[at].tobytes(), (name, at)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [40, 257, 900, 5000])
def test_columns_alone_and_in_batches(classes: int, dtype: np.dtype) -> None:
    """Neighbours share registers: which of them grows from chunk to chunk concerns no other."""
    rng = np.random.default_rng(classes)
    logits = rng.standard_normal((classes, 70)).astype(dtype).T
    soft = rng.random((classes, 70)).astype(dtype).T
    index = rng.integers(0, classes, 70)
    for fn, labels in ((V2, soft), (SPARSE, index)):
        value, gradient = xent.value_and_grad(fn)(labels=labels, logits=logits)
        for size in (1, 7, 33):
            want, its = _pieces(fn, labels, logits, size)
            assert value.tobytes() == want.tobytes(), size
            assert np.array_equal(gradient, its), size


@pytest.mark.parametrize("axis", [0, 1])
def test_long_rows_in_turns(axis: int) -> None:
    """Rows that are cut into pieces are solved a few at a time: each as if it were alone."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(12, 140_000)).astype(np.float32)
    labels = rng.random(size=logits.shape).astype(np.float32)
    if axis == 0:
        logits, labels = np.asfortranarray(logits).T, np.asfortranarray(labels).T
    rows = [(slice(i, i + 1),) if axis else (slice(None), slice(i, i + 1)) for i in range(12)]
    value, gradient = xent.value_and_grad(V2)(labels, logits, axis=axis)
    for i, row in enumerate(rows):
        alone, own = xent.value_and_grad(V2)(labels[row], logits[row], axis=axis)
        assert alone[0] == value[i]
        assert np.array_equal(own, gradient[row])


def _pieces(fn: Any, labels: np.ndarray, logits: np.ndarray, size: int) -> tuple[Any, Any]:
    """Values and gradients of a few examples at a time, along the last axis of the batch."""
    value = np.empty(logits.shape[:-1], logits.dtype)
    gradient = np.empty(logits.shape, logits.dtype)
    for i in range(0, value.shape[-1], size):
        at = (..., slice(i, i + size))
        own = (*at, slice(None))
        value[at], gradient[own] = xent.value_and_grad(fn)(
            labels=labels[own if labels.ndim == logits.ndim else at], logits=logits[own]
        )
    return value, gradient


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 3, 4, 7, 10, 37, 64])
def test_few_classes_in_panels(classes: int, dtype: np.dtype) -> None:
    """Many full units, which are transposed together: as if each lay in none."""
    rng = np.random.default_rng(classes)
    every = (3 * rng.standard_normal((3, 1200, classes))).astype(dtype)
    soft = rng.random(every.shape).astype(dtype)
    index = rng.integers(0, classes, (3, 1200))
    # The second is several outer indices, each with full units and one that is not.
    for logits, labels, target in (
        (every[0], soft[0], index[0]),
        (every[:, :1111], soft[:, :1111], index[:, :1111]),
        (every[:, ::-1], soft, index),
        (every, soft[:1, :1], index),
    ):
        wide = np.broadcast_to(labels, logits.shape)
        for fn, given, small in ((V2, labels, wide), (SPARSE, target, target)):
            value, gradient = _pieces(fn, small, logits, 15)
            assert fn(labels=given, logits=logits).tobytes() == value.tobytes()
            for out in (np.empty_like(gradient), np.empty_like(gradient, order="F"), logits.copy()):
                both = xent.value_and_grad(fn)
                got = both(labels=given, logits=logits, out=out)
                assert got[0].tobytes() == value.tobytes()
                assert np.array_equal(out, gradient)
            place = logits.copy()
            xent.value_and_grad(fn)(labels=given, logits=place, out=place)
            assert np.array_equal(place, gradient)


@pytest.mark.parametrize(("classes", "examples"), [(20, 60_011), (150, 8_011), (900, 1_301)])
def test_far_classes_in_panels(classes: int, examples: int) -> None:
    """Many or few units in a panel, which are brought while others are solved, or at once."""
    rng = np.random.default_rng(classes)
    logits = rng.standard_normal((classes, examples), dtype=np.float32).T
    soft = rng.random((classes, examples), dtype=np.float32).T
    index = rng.integers(0, classes, examples)
    for fn, labels in ((V2, soft), (SPARSE, index)):
        value, gradient = _pieces(fn, labels, logits, 701)
        got = xent.value_and_grad(fn)(labels=labels, logits=logits)
        assert got[0].tobytes() == value.tobytes()
        assert np.array_equal(got[1], gradient)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 700, 3_001), (3, 1_300, 1_009), (2, 2_600, 1_040), (1, 4_200, 600)], ids=str
)
def test_far_classes_in_pieces(shape: tuple[int, int, int], dtype: np.dtype) -> None:
    """Large operands whose panels would be narrow: as if each example was solved at a stroke."""
    rng = np.random.default_rng(shape[1])
    sizes = rng.choice(
        [1e-3, 1, 30], size=(1, shape[1], 1)
    )  # maxima that differ from piece to piece
    logits = np.moveaxis((sizes * rng.standard_normal(shape)).astype(dtype), 1, -1)
    soft = np.moveaxis(rng.random(shape, dtype=np.float32).astype(dtype), 1, -1)
    index = rng.integers(0, shape[1], (shape[0], shape[2]))
    offset = 5
    for fn, labels in ((V2, soft), (SPARSE, index)):
        both: Any = xent.value_and_grad(fn)
        want, gradient = _pieces(fn, labels, logits, 37)
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            assert fn(labels=labels, logits=logits).tobytes() == want.tobytes()
            memory = np.full(logits.size + 64, dtype.type(-77))
            out = np.moveaxis(memory[offset : offset + logits.size].reshape(shape), 1, -1)
            place = np.moveaxis(np.moveaxis(logits, -1, 1).copy(), 1, -1)
            for given, target in ((logits, out), (place, place)):
                value, _ = both(labels=labels, logits=given, out=target)
                assert value.tobytes() == want.tobytes()
                assert np.array_equal(target, gradient)
            assert np.all(memory[:offset] == -77)
            assert np.all(memory[offset + out.size :] == -77)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(2_001, 3, 1), (50, 10, 17), (401, 65, 31), (3, 300, 49), (9_001, 21, 10), (200, 600, 20)],
    ids=str,
)
def test_short_runs(shape: tuple[int, int, int], dtype: np.dtype) -> None:
    """Examples next to each other by the dozen: as if each dozen was alone."""
    rng = np.random.default_rng(shape[1])
    every = (3 * rng.standard_normal(shape)).astype(dtype)
    soft = rng.random(shape, dtype=np.float32).astype(dtype)
    every[rng.random(shape) < 1e-3] = -np.inf
    soft[rng.random(shape) < 1e-3] = np.inf
    index = rng.integers(0, shape[1], (shape[0], shape[2]))
    weights = rng.random(index.shape).astype(dtype)
    offset = 3
    for fn, labels in (
        (xent.losses.softmax_cross_entropy, np.moveaxis(soft, 1, -1)),
        (xent.losses.sparse_softmax_cross_entropy, index),
    ):
        both: Any = xent.value_and_grad(fn)
        none = xent.losses.Reduction.NONE
        for step in (1, 2):
            logits = np.moveaxis(every, 1, -1)[::step]
            given, own = labels[::step], weights[::step]
            memory = np.full(logits.size + 64, dtype.type(-77))
            moved = memory[offset : offset + logits.size].reshape(every[::step].shape)
            out = np.moveaxis(moved, 1, -1)
            place = np.moveaxis(every[::step].copy(), 1, -1)
            with np.errstate(invalid="ignore"):
                want = [
                    both(given[i], logits[i], weights=own[i], reduction=none)
                    for i in range(len(logits))
                ]
                value, _ = both(given, logits, weights=own, reduction=none, out=out)
                again, _ = both(given, place, weights=own, reduction=none, out=place)
            assert value.tobytes() == again.tobytes() == b"".join(v.tobytes() for v, _ in want)
            gradient = np.stack([g for _, g in want])
            assert np.array_equal(out, gradient, equal_nan=True)
            assert np.array_equal(place, gradient, equal_nan=True)
            assert np.all(memory[:offset] == -77)
            assert np.all(memory[offset + out.size :] == -77)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("offset", [0, 1, 7, 16])
def test_few_classes_past_the_caches(offset: int, order: Any) -> None:
    """A large gradient, wherever it begins and however the logits lie, is all that is written."""
    rng = np.random.default_rng(offset)
    shape = (120_011, 10)
    logits = np.asarray(rng.standard_normal(shape, dtype=np.float32), order=order)
    index = rng.integers(0, 10, shape[0])
    memory = np.full(shape[0] * 10 + 64, np.float32(-77))
    out = memory[offset : offset + shape[0] * 10].reshape(shape)
    value, _ = xent.value_and_grad(SPARSE)(labels=index, logits=logits, out=out)
    want, gradient = _pieces(SPARSE, index, logits, 4001)
    assert value.tobytes() == want.tobytes()
    assert np.array_equal(out, gradient)
    assert np.all(memory[:offset] == -77)
    assert np.all(memory[offset + out.size :] == -77)


@pytest.mark.parametrize("offset", [0, 5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(33_001, 66), (20_001, 129), (2_500, 1_000), (600, 4_099), (40, 70_001)], ids=str
)
def test_rows_past_the_caches(shape: tuple[int, int], dtype: np.dtype, offset: int) -> None:
    """Gradients that are written while the next rows are summed are those of rows in small pieces."""
    rng = np.random.default_rng(offset)
    logits = (3 * rng.standard_normal(shape)).astype(dtype)
    soft = rng.random(shape).astype(dtype)
    index = rng.integers(0, shape[1], shape[0])
    for fn, labels in ((V2, soft), (SPARSE, index), (SPARSE, index.astype(np.int32))):
        memory = np.full(logits.size + 64, dtype.type(-77))
        out = memory[offset : offset + logits.size].reshape(shape)
        value, _ = xent.value_and_grad(fn)(labels=labels, logits=logits, out=out)
        want, gradient = _pieces(fn, labels, logits, max(1, shape[0] // 17))
        assert value.tobytes() == want.tobytes()
        assert np.array_equal(out, gradient)
        assert np.all(memory[:offset] == -77)
        assert np.all(memory[offset + out.size :] == -77)


@pytest.mark.parametrize("offset", [0, 1, 4, 15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 21, 25_008), (1_700, 21, 32), (70, 2_000, 32)], ids=str)
def test_columns_past_the_caches(shape: tuple[int, ...], dtype: type, offset: int) -> None:
    """Whole lines are written wherever a gradient begins: then first units lack some examples."""
    rng = np.random.default_rng(offset)
    logits = rng.standard_normal(shape).astype(dtype)
    index = rng.integers(0, shape[1], (shape[0], shape[2]))
    weights = rng.random(index.shape).astype(dtype)
    memory = np.full(logits.size + 64, dtype(-77))
    out = memory[offset : offset + logits.size].reshape(shape)
    moved = np.moveaxis(logits, 1, -1)
    loss = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)
    none = xent.losses.Reduction.NONE
    value, _ = loss(index, moved, weights=weights, reduction=none, out=np.moveaxis(out, 1, -1))
    parts = [
        loss(index[i : i + 1], moved[i : i + 1], weights=weights[i : i + 1], reduction=none)
        for i in range(shape[0])
    ]
    assert value.tobytes() == np.concatenate([part[0] for part in parts]).tobytes()
    assert np.array_equal(np.moveaxis(out, 1, -1), np.concatenate([part[1] for part in parts]))
    assert np.all(memory[:offset] == -77)
    assert np.all(memory[offset + out.size :] == -77)
