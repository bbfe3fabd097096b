"""At the limits: memory that runs out, more than 2**31 elements, a hundred thousand calls."""

import ctypes
import gc
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from calls import FUNCTIONS, LOGITS, RIGHT, SPARSE
from processes import python

import numba_xent as xent

pytest.importorskip("resource")

V2 = xent.nn.softmax_cross_entropy_with_logits_v2
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# --- memory runs out

LIMITED = """
import contextlib, gc, resource
from pathlib import Path
import numba
import numpy as np
import numba_xent as xent

def size():
    status = Path("/proc/self/status").read_text()
    return next(int(l.split()[1]) * 1024 for l in status.splitlines() if l.startswith("VmSize"))

def limited(room, call):
    # The result of a call that has so much memory left, or what it raises.
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    gc.collect()
    taken = []
    try:
        # What compilations have left free would be used first.
        resource.setrlimit(resource.RLIMIT_AS, (size(), hard))
        with contextlib.suppress(MemoryError):
            while True:
                taken.append(np.empty(2**20, np.uint8))
        resource.setrlimit(resource.RLIMIT_AS, (size() + room, hard))
        return call()
    except Exception as error:
        return error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
"""


@linux
def test_no_memory_for_the_result() -> None:
    """MemoryError, inputs and `out` as they were, and everything works afterwards."""
    code = """
fn = xent.nn.softmax_cross_entropy_with_logits_v2
both = xent.value_and_grad(fn, wrt=("logits", "labels"))
logits = np.arange(6, dtype=np.float32).reshape(2, 3)
labels = np.array([[0, 0, 1], [0, 1, 0]], np.float32)
want = both(labels, logits)[0].tobytes()
# What is compiled and started at a first call is there already: LLVM aborts without memory.
alike = np.broadcast_to(logits[:1], (100_000, 3))
both(np.broadcast_to(labels[:1], alike.shape), alike)
fn(labels=np.broadcast_to(labels[:1], alike.shape), logits=alike)
large = np.broadcast_to(logits[:1], (10_000_000, 3))
out = np.full((10_000_000, 3), 7, np.float32)
for room in (2**20, 2**26):
    calls = [
        lambda: fn(labels=np.broadcast_to(labels[:1], large.shape), logits=large),
        lambda: both(np.broadcast_to(labels[:1], large.shape), large),
        lambda: both(np.broadcast_to(labels[:1], large.shape), large, out=(out, None)),
        lambda: xent.losses.compute_weighted_loss(large, 1.0),
    ]
    for call in calls[1:] if room > 2**20 else calls:
        error = limited(room, call)
        assert isinstance(error, MemoryError), (room, repr(error)[:200])
        assert (out == 7).all() and logits.tolist() == [[0, 1, 2], [3, 4, 5]]
print(both(labels, logits)[0].tobytes() == want)
"""
    assert python(LIMITED + code).split() == ["True"]


MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1024", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
"""The allocator asks the system for every block, and gives each back."""


@linux
def test_no_memory_for_a_second_gradient() -> None:
    """The first is not written either, in place least of all."""
    code = """
rng = np.random.default_rng(0)
n = 200_000
logits = rng.normal(size=(n, 3)).astype(np.float32)
dense, weights = rng.random((n, 3)).astype(np.float32), rng.random(n).astype(np.float32)
sparse = rng.integers(0, 3, n)
out = np.empty_like(logits)
v2 = xent.nn.softmax_cross_entropy_with_logits_v2
loss, sparse_loss = xent.losses.softmax_cross_entropy, xent.losses.sparse_softmax_cross_entropy
with_weights = [xent.value_and_grad(fn, ("logits", "weights")) for fn in (loss, sparse_loss)]
with_labels = xent.value_and_grad(v2, ("logits", "labels"))
calls = {
    "dense": lambda: with_weights[0](dense, out, weights, out=(out, None)),
    "none": lambda: with_weights[0](dense, out, weights, reduction="none", out=(out, None)),
    "mean": lambda: with_weights[1](sparse, out, weights[:1], reduction="weighted_mean",
                                    out=(out, None)),
    "labels": lambda: with_labels(dense, out, out=(out, None)),
    "broadcast": lambda: with_labels(dense[:1], out, out=(out, None)),
}
for name, call in calls.items():
    out[...] = logits
    call()
    gradient = out.tobytes()
    raised = 0
    for room in range(0, 6 * 2**20, 3 * 2**17):
        out[...] = logits
        got = limited(room, call)
        if isinstance(got, Exception):
            assert isinstance(got, MemoryError), repr(got)[:100]
            raised += 1
        assert np.array_equal(out, logits) if isinstance(got, Exception) else (
            out.tobytes() == gradient), (name, room)
    assert 0 < raised < 16, name
print("survived")
"""
    out = python(LIMITED + code, NUMBA_NUM_THREADS="1", **MALLOC)
    assert out.split() == ["survived"]


@linux
@pytest.mark.parametrize(("layer", "threads"), [("workqueue", 1), ("omp", 1), ("omp", 2)])
def test_no_memory_for_scratch(layer: str, threads: int) -> None:
    """A kernel that lacks scratch memory raises: it does not return what it has not computed."""
    code = f"""
numba.set_num_threads({threads})
both = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)
rng = np.random.default_rng(0)
for rows, classes in ((3000, 100), (1000, 20_000)):
    logits = rng.normal(size=(rows, classes)).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    out = np.empty_like(logits)
    want, gradient = both(labels, logits, out=out)[0], out.tobytes()
    for room in (0, 4096, 2**16, 2**18, 2**19, 2**20):
        out[...] = 7
        got = limited(room, lambda: both(labels, logits, out=out))
        if isinstance(got, Exception):
            assert isinstance(got, MemoryError), repr(got)[:100]
        else:
            assert got[0] == want and out.tobytes() == gradient, (classes, room)
print("survived")
"""
    code = LIMITED + code
    out = python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2", **MALLOC)
    assert out.split() == ["survived"]


def test_more_than_there_can_be() -> None:
    """A result of 2**59 numbers cannot be had; nothing tries to compute it first."""
    logits = np.zeros((2**31, 0, 2**28), np.float32)
    with pytest.raises(MemoryError):
        V2(logits, logits, axis=1)
    assert V2(logits[:3, :, :2], logits[:3, :, :2], axis=1).tolist() == [[0.0] * 2] * 3


@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize("shape", [(2**61, 1), (2**30, 2**31), (2**31, 0, 2**30)])
def test_more_than_can_be_addressed(fn: Any, shape: tuple[int, ...]) -> None:
    """Arrays of stride 0 can have more numbers than fit in memory in the dtype of a result."""
    name = next(iter(RIGHT[fn]))
    large = np.broadcast_to(np.float16(0), shape)
    for wrong in ({name: large}, dict.fromkeys(RIGHT[fn], large)):
        with pytest.raises(
            ValueError, match=rf"({name}|weights) has shape .* more numbers than memory"
        ):
            fn(**RIGHT[fn] | wrong)


# --- more than 2**31 elements

BIG = 2**31 + 5


def test_more_than_2_31_classes() -> None:
    """One example whose classes all have the same logit: log C, wherever the label is."""
    for dtype in (np.float16, np.float32):
        logits = np.broadcast_to(np.array(1.5, dtype), (1, BIG))
        for label in (0, BIG - 1):
            (loss,) = SPARSE(labels=np.array([label]), logits=logits)
            assert loss == np.asarray(np.log(BIG), dtype)
    with pytest.raises(ValueError, match=f"label value of {BIG} "):
        SPARSE(labels=np.array([BIG]), logits=logits)


@pytest.mark.slow
def test_more_than_2_31_elements_in_columns() -> None:
    """The same for a class axis in front."""
    logits = np.broadcast_to(np.float32(0.25), (2**30 + 3, 2))
    labels = np.broadcast_to(np.float32(2.0**-30), (2**30 + 3, 2))
    loss = V2(labels, logits, axis=0)
    np.testing.assert_allclose(loss, (1 + 3 * 2.0**-30) * np.log(2**30 + 3), rtol=1e-6)


def sparse_file(shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array in a file that is mostly holes."""
    size = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + np.dtype(dtype).itemsize
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        memory = np.memmap(file, np.uint8, "r+", shape=(size,))
    return np.ndarray(shape, dtype, memory, 0, strides)


@pytest.mark.parametrize(
    ("shape", "axis", "strides"),
    [
        ((3, 100), 1, (2**32, 4)),
        ((3, 100), 1, (2**31 + 4096, 4)),
        ((100, 3), 0, (4, 2**32)),
        ((4, 20), 0, (2**31 - 4096, 4)),
        ((3, 5, 7), 1, (2**32, 28, 4)),
        ((2, 70), 1, (4, 2**26)),
    ],
)
def test_strides_beyond_2_31_bytes(
    shape: tuple[int, ...], axis: int, strides: tuple[int, ...]
) -> None:
    """Operands and gradients that lie gigabytes apart."""
    logits, labels, out = (sparse_file(shape, strides, np.float32) for _ in range(3))
    rng = np.random.default_rng(0)
    logits[...] = rng.normal(size=shape)
    labels[...] = rng.random(shape)
    near = [np.array(a) for a in (logits, labels)]
    value, gradient = xent.value_and_grad(V2)(labels, logits, axis=axis, out=out)
    want = oracle.dense(near[1], near[0], axis=axis)
    assert gradient is out
    np.testing.assert_allclose(value, want.value.astype(np.float64), rtol=1e-6)
    np.testing.assert_allclose(
        np.array(out), want.grads["logits"].astype(np.float64), atol=2e-7, rtol=1e-6
    )


# --- nothing leaks

CALLS = 100_000


def resident() -> int:
    """How much memory this process holds, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@linux
def test_nothing_leaks() -> None:
    """A hundred thousand calls, right and wrong ones: as much memory and as many references."""
    libc = ctypes.CDLL(None)
    right = [(fn, RIGHT[fn]) for fn in FUNCTIONS]
    right += [(xent.value_and_grad(fn), RIGHT[fn]) for fn in FUNCTIONS[:5]]
    wrong = [(fn, {**RIGHT[fn], "logits": LOGITS[0]}) for fn in FUNCTIONS[:5]]
    operands = [a for fn in FUNCTIONS for a in RIGHT[fn].values()]

    def calls(count: int) -> None:
        for i in range(count):
            fn, kwargs = right[i % len(right)]
            fn(**kwargs)
            if i % 10 == 0:
                fn, kwargs = wrong[i // 10 % len(wrong)]
                with pytest.raises(ValueError, match=r"shape|Shapes"):
                    fn(**kwargs)

    def state() -> tuple[int, list[int], int]:
        gc.collect()
        libc.malloc_trim(0)
        return resident(), [sys.getrefcount(a) for a in operands], len(gc.get_objects())

    calls(CALLS // 10)
    before = state()
    calls(CALLS)
    after = state()
    assert after[1] == before[1]
    assert after[2] - before[2] < 100
    assert after[0] - before[0] < 2**20
