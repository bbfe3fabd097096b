"""An example gives the same bits alone and in any batch, however the batch lies in memory."""

from collections.abc import Callable
from typing import Any

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
