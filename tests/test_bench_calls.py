"""What the benchmark calls and compares with: operands, our functions, the speed of memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numba
import numpy as np
import pytest
from bench_tasks import SMALL, task

import numba_xent as xent
from numba_xent._bench.calls import our_call, our_call_with, our_call_without
from numba_xent._bench.cases import WITH_OPTION, Case
from numba_xent._bench.operands import Operands
from numba_xent._bench.probe import Probe
from numba_xent._cpu.intrinsics import bits_register, fence, pointer, store_streaming, zeros

# --- operands and calls


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_operands(dtype: str, axis: int) -> None:
    """Finite logits, probabilities, classes; the same every time."""
    case = Case((5, 6, 7), axis, dtype)
    operands, again = Operands(case), Operands(case)
    assert operands.logits.dtype.name == operands.dense.dtype.name == dtype
    assert operands.logits.shape == operands.dense.shape == operands.gradient.shape == case.shape
    assert operands.sparse.shape == operands.losses.shape == operands.weights.shape == case.batch
    sums = operands.dense.astype(np.float64).sum(axis)
    np.testing.assert_allclose(sums, 1, atol=0.03)
    assert 0 <= operands.sparse.min() <= operands.sparse.max() < case.classes
    assert np.std(operands.logits.astype(np.float64)) == pytest.approx(1, abs=0.2)
    assert 0 < np.count_nonzero(operands.weights) < operands.weights.size
    for name in ("logits", "dense", "sparse", "weights"):
        np.testing.assert_array_equal(getattr(operands, name), getattr(again, name))


@pytest.mark.parametrize("labels", ["dense", "sparse"])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bytes(labels: str, gradient: bool, dtype: str) -> None:
    """What a call must move, counted by hand."""
    t = task(case=Case((4, 6, 5), 1, dtype), labels=labels, gradient=gradient)
    size = np.dtype(dtype).itemsize
    expected = 120 * size + (120 * size if labels == "dense" else 20 * 8) + 20 * size
    expected += 120 * size if gradient else 0
    operands = Operands(t.case)
    assert operands.nbytes(t) == expected
    assert Probe(*operands.moved(t)).nbytes == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("labels", ["dense", "sparse"])
@pytest.mark.parametrize("fresh", [False, True])
def test_our_call(axis: int, labels: str, fresh: bool) -> None:
    """Losses and gradient are those of the logits as they lie there."""
    operands = Operands(Case((3, 4, 5), axis, "float64"))
    t = task(case=operands.case, labels=labels)
    x = operands.logits
    p = np.exp(x) / np.exp(x).sum(axis, keepdims=True)
    dense = operands.dense
    if labels == "sparse":
        dense = np.moveaxis(np.eye(x.shape[axis])[operands.sparse], -1, axis)
    losses = our_call(t, operands, fresh=fresh)()
    np.testing.assert_allclose(losses, -(dense * np.log(p)).sum(axis))
    again, gradient = our_call(t._replace(gradient=True), operands, fresh=fresh)()
    np.testing.assert_array_equal(again, losses)
    if labels == "sparse":
        gradient = np.moveaxis(gradient, -1, axis)
    np.testing.assert_allclose(gradient, p - dense, atol=1e-15)
    assert np.shares_memory(gradient, operands.gradient) != fresh


@pytest.mark.parametrize(
    ("labels", "option"), [(kind, name) for kind, names in WITH_OPTION.items() for name in names]
)
@pytest.mark.parametrize("gradient", [False, True])
def test_options_change_the_value(labels: str, option: str, gradient: bool) -> None:
    """A call with an option computes something else than the one without."""
    operands = Operands(SMALL)
    t = task(labels=labels, gradient=gradient)
    values = [
        make(option, t, operands)()[0] if gradient else make(option, t, operands)()
        for make in (our_call_with, our_call_without)
    ]
    assert not np.array_equal(*values)
    without = xent.nn.softmax_cross_entropy_with_logits_v2(operands.dense, operands.logits)
    if labels == "dense":
        np.testing.assert_array_equal(values[1], without)


# --- probe


def random_bytes(size: int, offset: int = 0) -> np.ndarray:
    """Bytes that begin anywhere in a cache line."""
    return np.random.default_rng(size).integers(0, 256, size + offset, np.uint8)[offset:]


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 9999])
@pytest.mark.parametrize("offset", [0, 3, 61])
@pytest.mark.parametrize("threads", [1, 2])
def test_probe_reads_and_writes_every_byte(
    size: int, offset: int, threads: int, many_threads: Callable[[int], None]
) -> None:
    """The sum depends on each byte, and nothing beside the outputs changes."""
    many_threads(threads)
    x, labels = random_bytes(size, offset), random_bytes(size, offset + 1)
    small = random_bytes(size + 1)
    around = [random_bytes(size + 200) for _ in range(2)]
    before = [array.copy() for array in around]
    gradient, losses = around[0][100 : 100 + size], around[1][50 : 50 + size - 1]
    probe = Probe([x, labels, small], [gradient, losses])
    assert probe.nbytes == 5 * size
    total = probe()
    np.testing.assert_array_equal(gradient, x | labels)
    assert not losses.any()
    for now, old, start, length in (
        (around[0], before[0], 100, size),
        (around[1], before[1], 50, size - 1),
    ):
        np.testing.assert_array_equal(now[:start], old[:start])
        np.testing.assert_array_equal(now[start + length :], old[start + length :])
    for array in (x, labels, small):
        for i in {*range(min(70, array.size)), *range(max(0, array.size - 70), array.size)}:
            array[i] ^= 16
            assert probe() != total
            array[i] ^= 16
    assert probe() == total


@pytest.fixture(name="many_threads")
def _many_threads() -> Iterator[Callable[[int], None]]:
    before = numba.get_num_threads()

    def choose(threads: int) -> None:
        if threads > numba.config.NUMBA_NUM_THREADS:
            pytest.skip(f"Numba has fewer than {threads} threads")
        numba.set_num_threads(threads)

    yield choose
    numba.set_num_threads(before)


def test_probe_copies_what_one_array_holds() -> None:
    """One array to read and one to write of the same size."""
    x, out = random_bytes(777), np.zeros(777, np.uint8)
    Probe([x], [out])()
    np.testing.assert_array_equal(out, x)


def test_probe_takes_no_array_with_gaps() -> None:
    """It would move other bytes than it counts."""
    with pytest.raises(ValueError, match="C-contiguous"):
        Probe([np.zeros((4, 4))[:, ::2]], [])


def test_streaming_stores_are_streaming() -> None:
    """LLVM is told so, and of the fence."""

    @numba.njit
    def fill(array: np.ndarray) -> None:
        store_streaming(pointer(array.ctypes.data), bits_register(zeros("float32", 1)))
        fence()

    whole = np.ones(256, np.uint8)
    start = -whole.ctypes.data % 64
    fill(whole[start : start + 64])
    assert not whole[start : start + 64].any()
    assert whole[:start].all()
    assert whole[start + 64 :].all()
    (llvm,) = fill.inspect_llvm().values()
    assert re.search(r"store <16 x i32>.*align 64, !nontemporal", llvm)
    assert "fence seq_cst" in llvm
