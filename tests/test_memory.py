"""No call allocates what it can do without: peaks of traced memory, and of the whole process.

tracemalloc sees every NumPy array; what compiled code allocates for itself shows only in the
process, whose high-water mark Linux lets us reset.
"""

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from peaks import peak

import numba_xent as xent
from numba_xent._cpu.cutting import STREAMED
from numba_xent._cpu.recipe import recipe_for
from numba_xent._cpu.record import DTYPE
from numba_xent._cpu.vector import PAGE
from numba_xent._cpu.workspace import Plan

V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SPARSE = xent.nn.sparse_softmax_cross_entropy_with_logits
SOFTMAX_LOSS = xent.losses.softmax_cross_entropy
SPARSE_LOSS = xent.losses.sparse_softmax_cross_entropy
N, C = 4096, 1024
SIZE = N * C * 4
THREADS = min(2, numba.config.NUMBA_NUM_THREADS)
SCRATCH = 2**20 * THREADS
# One number per example (four, to be generous), and what does not grow with the problem.
SMALL = 4 * N * 8 + SCRATCH


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """Scratch is allowed per thread: keep it small beside the problems on machines of many."""
    before = numba.get_num_threads()
    numba.set_num_threads(THREADS)
    yield
    numba.set_num_threads(before)


def dense(axis: int = -1, layout: Callable[[np.ndarray], np.ndarray] | None = None) -> dict:
    """A dense problem of N examples and C classes, with the class axis where it is wanted."""
    rng = np.random.default_rng(0)
    shape = {-1: (N, C), 0: (C, N), 1: (64, C, N // 64)}[axis]
    logits = rng.standard_normal(shape, np.float32)
    labels = rng.random(shape, np.float32)
    if layout is not None:
        logits, labels = layout(logits), layout(labels)
    return {"labels": labels, "logits": logits, "axis": axis}


def sliced(a: np.ndarray) -> np.ndarray:
    """Every second column of an array twice as wide."""
    return np.repeat(a, 2, axis=-1)[..., ::2]


def flipped(a: np.ndarray) -> np.ndarray:
    """Negative strides."""
    return a[::-1, ::-1]


def broadcast() -> dict:
    """One row of labels for all examples."""
    problem = dense()
    return problem | {"labels": problem["labels"][:1]}


def stride_zero() -> dict:
    """The same, already broadcast by the caller."""
    problem = broadcast()
    return problem | {"labels": np.broadcast_to(problem["labels"], (N, C))}


def integer_labels() -> dict:
    """Labels of another dtype, which is converted on the way, not in memory."""
    problem = dense()
    return problem | {"labels": (problem["labels"] > 0.5).astype(np.int8)}


def sparse() -> dict:
    """Class numbers."""
    return {"labels": np.arange(N) % C, "logits": dense()["logits"]}


def losses() -> dict:
    """Weights and smoothing."""
    problem = dense()
    return {
        "onehot_labels": problem["labels"],
        "logits": problem["logits"],
        "weights": np.ones(N, np.float32),
        "label_smoothing": 0.1,
    }


def sparse_losses() -> dict:
    """Class numbers in a column, and one weight for all."""
    problem = sparse()
    return {**problem, "labels": problem["labels"][:, None], "weights": np.ones((1,), np.float32)}


def half() -> dict:
    """Halves are widened on the way, not in memory."""
    problem = dense()
    return problem | {k: problem[k].astype(np.float16) for k in ("labels", "logits")}


CASES: dict[str, tuple[Callable, Callable[[], dict]]] = {
    "rows": (V2, dense),
    "axis 0": (V2, lambda: dense(0)),
    "axis in the middle": (V2, lambda: dense(1)),
    "sliced": (V2, lambda: dense(-1, sliced)),
    "sliced, axis in the middle": (V2, lambda: dense(1, sliced)),
    "flipped": (V2, lambda: dense(-1, flipped)),
    "transposed": (V2, lambda: dense(-1, np.asfortranarray)),
    "broadcast labels": (V2, broadcast),
    "labels of stride 0": (V2, stride_zero),
    "integer labels": (V2, integer_labels),
    "sparse": (SPARSE, sparse),
    "losses": (SOFTMAX_LOSS, losses),
    "sparse losses": (SPARSE_LOSS, sparse_losses),
    "half": (V2, half),
}


@pytest.mark.parametrize("name", CASES)
def test_value(name: str) -> None:
    """A value needs room for one number per example, and no more."""
    fn, build = CASES[name]
    kwargs = build()
    assert peak(lambda: fn(**kwargs)) < SMALL


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name: str) -> None:
    """With a gradient, the same and the gradient; into `out`, only the same."""
    fn, build = CASES[name]
    kwargs = build()
    gradient = np.empty_like(kwargs["logits"], order="C")
    both = xent.value_and_grad(fn)
    assert peak(lambda: both(**kwargs)) < gradient.nbytes + SMALL
    assert peak(lambda: both(**kwargs, out=gradient)) < SMALL


ONE = 2**22  # losses
REDUCED = xent.losses.Reduction.SUM_BY_NONZERO_WEIGHTS


@pytest.mark.parametrize("shape", [(), (1,), (ONE,)])
@pytest.mark.parametrize(
    ("dtype", "reduction", "wide"),
    [
        ("float32", "none", 4),
        ("float64", "none", 8),
        ("float32", REDUCED, 8),
        ("float64", REDUCED, 8),
        ("float16", REDUCED, 12),
    ],
)
def test_weighted_losses(shape: tuple[int, ...], dtype: str, reduction: str, wide: int) -> None:
    """The weighted losses or their products in float64, and no other copy; halves are widened."""
    given = np.ones(ONE, dtype)
    weights = np.ones(shape, dtype)
    most = peak(lambda: xent.losses.compute_weighted_loss(given, weights, reduction=reduction))
    of_weights = 4 * weights.size if dtype == "float16" else 0  # converted
    assert most < wide * ONE + of_weights + SMALL


def test_gradient_of_broadcast_labels() -> None:
    """Summed as it is computed: nothing of the size of the logits."""
    kwargs = broadcast()
    both = xent.value_and_grad(V2, wrt="labels")
    assert peak(lambda: both(**kwargs)) < SMALL


def test_the_peak_is_seen() -> None:
    """The measurement itself notices one copy of the logits."""
    logits = dense()["logits"]
    assert peak(logits.copy) >= SIZE


# Each thread and processor tells the system of its pages a few dozen at a time.
COUNTED_LATER = 4 * 4096 * max(64, 2 * (os.cpu_count() or 1))


def high_water() -> int:
    """The largest resident size of this process since it was last reset, in bytes."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def small_pages() -> Iterator[None]:
    """No huge pages: one byte of them would count as two MiB, wherever malloc puts it."""
    set_thp_disable = 41
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(set_thp_disable, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_THP_DISABLE)")
    try:
        yield
    finally:
        prctl(set_thp_disable, 0, 0, 0, 0)


def resident_growth(call: Callable[[], Any]) -> int:
    """How far the resident size rises above its start during a warm call."""
    reset = Path("/proc/self/clear_refs")
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if not reset.exists() or trim is None:
        pytest.skip("only Linux can reset the high-water mark, and only glibc give memory back")
    call()
    gc.collect()
    trim(0)  # what the allocator keeps of earlier calls would be used first, and unseen
    reset.write_text("5")
    with small_pages():
        before = high_water()
        result = call()
        growth = high_water() - before
    del result
    return growth


def grows_by_less(call: Callable[[], Any], limit: int) -> bool:
    """Whether it does so by less than a limit in one of several calls.

    What a call allocates, it allocates each time. Now and then there are other pages as well: of
    code that a busy system had taken away, for one.
    """
    return any(resident_growth(call) < limit for _ in range(5))


def test_resident_growth_is_seen() -> None:
    """Also of compiled code, and also what it has allocated before."""

    @numba.njit
    def waste(n: int) -> float:
        a = np.empty(n, np.float32)
        a[:] = 1
        return a[n // 2]

    for _ in range(3):
        waste(N * C)
    assert any(resident_growth(lambda: waste(N * C)) >= SIZE - COUNTED_LATER for _ in range(5))
    assert not grows_by_less(lambda: waste(N * C), SIZE // 2)


@pytest.mark.parametrize("name", CASES)
def test_resident_memory(name: str) -> None:
    """Nor does compiled code allocate anything of the size of the input (16 MiB)."""
    fn, build = CASES[name]
    kwargs = build()
    size = kwargs["logits"].nbytes
    gradient = np.ones_like(kwargs["logits"], order="C")
    both = xent.value_and_grad(fn)
    slack = SCRATCH + COUNTED_LATER
    assert slack < size // 2
    assert size // 2 > SMALL
    assert grows_by_less(lambda: fn(**kwargs), slack)
    assert grows_by_less(lambda: both(**kwargs, out=gradient), slack)
    assert grows_by_less(lambda: both(**kwargs), size + slack)


@pytest.mark.parametrize("lie", ["near", "far", "in runs"])
@pytest.mark.parametrize("sparse", [False, True])
def test_scratch_memory(sparse: bool, lie: str) -> None:
    """That of a task is no more than a MiB, however many classes there are and wherever they lie."""
    for classes in (2, 21, 64, 65, 150, 500, 594, 1024, 1273, 1855, 2040, 2500, 4096, 20_000):
        size = max(64, 2 * STREAMED // (4 * classes))
        shape, axis = {
            "near": ((size, classes), 1),
            "far": ((classes, size), 0),
            "in runs": ((1 + size // 17, classes, 17), 1),
        }[lie]
        steps = np.cumprod((4, *shape[:0:-1]))[::-1]
        logits = (np.dtype(np.float32), shape, tuple(steps.tolist()))
        batch = np.delete(shape, axis).tolist()
        loss = np.empty(batch, np.float32)
        index = np.empty(batch, np.int64)
        labels = (index.dtype, index.shape, index.strides) if sparse else logits
        metas = (logits, labels, (loss.dtype, loss.shape, loss.strides), None, None, logits, None)
        recipe = recipe_for(axis, not sparse, False, metas)
        record = np.frombuffer(recipe.template, DTYPE)[0]
        if lie == "far":  # or memory is several times as slow
            assert record["panel"] >= 2
        if lie == "in runs" and classes < 1500:
            assert record["run"] == 17
        plan = record["plan"]
        assert plan["size"] <= 2**20
        # A page between what two threads write: else they take it from each other.
        assert plan["size"] % PAGE == 0
        assert plan["size"] - max(plan[name] for name in Plan._fields[:-3]) > PAGE
