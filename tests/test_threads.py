"""Python threads and thread counts, under every threading layer: no abort, always the same bits.

Numba's workqueue layer aborts the process if two threads launch parallel kernels at once, or one
from inside another, whoever they belong to.
"""

import ctypes.util
import functools
import importlib.util
import os
from importlib import metadata

import numba
import pytest
from processes import ended, python

from numba_xent._cpu import threads

LAYERS = ("workqueue", "omp", "tbb")
PROBLEM = """
import hashlib, os, signal, sys, threading, warnings
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import numba
import numba_xent as xent
rng = np.random.default_rng(0)
logits = rng.normal(size=(2048, 100)).astype(np.float32)
labels = rng.integers(0, 100, 2048)
both = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)
def bits():
    value, gradient = both(labels, logits)
    return hashlib.sha256(value.tobytes() + gradient.tobytes()).hexdigest()
"""
WATCH = """
from numba_xent._cpu import backend
available, seen = backend.available_threads, []
def watch():
    seen.append(available())
    return seen[-1]
backend.available_threads = watch
"""
OWN_KERNEL = """
@numba.njit(parallel=True, nogil=True)
def own(n):
    total = 0
    for i in numba.prange(n):
        total += i % 7
    return total
"""


@functools.cache
def missing(layer: str) -> str | None:
    """Why Numba cannot load a layer here, if it cannot."""
    if layer == "omp" and ctypes.util.find_library("gomp") is None:
        return "there is no libgomp"
    if layer == "tbb":
        if importlib.util.find_spec("numba.np.ufunc.tbbpool") is None:
            return "this Numba was built without TBB"
        try:
            metadata.version("tbb")
        except metadata.PackageNotFoundError:
            return "the package tbb is not installed"
    return None


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> str:
    """A threading layer; one that is installed must work."""
    reason = missing(request.param)
    if reason is not None:
        pytest.skip(reason)
    return request.param


@functools.cache
def expected() -> str:
    """The bits that one thread computes."""
    return python(PROBLEM + "print(bits())", NUMBA_NUM_THREADS="1").strip()


def under(layer: str, code: str, threads: int = 2, timeout: float = 280) -> list[str]:
    """What some code prints under a layer; nothing but that may reach the terminal."""
    out = python(
        PROBLEM + code,
        quiet=True,
        timeout=timeout,
        NUMBA_THREADING_LAYER=layer,
        NUMBA_NUM_THREADS=str(threads),
    )
    return out.split()


def test_one_thread() -> None:
    """With one thread even a large problem is computed by the serial kernel."""
    code = PROBLEM + WATCH + "print(bits(), seen)"
    assert python(code, NUMBA_NUM_THREADS="1").split() == [expected(), "[1]"]


def test_the_problem_is_parallel(layer: str) -> None:
    """The problem of these tests does run in parallel: otherwise they would prove nothing."""
    out = under(layer, WATCH + "print(bits(), seen, numba.threading_layer())")
    assert out == [expected(), "[2]", layer]


def test_many_python_threads(layer: str) -> None:
    """Eight threads start at once and call again and again, some of them small problems.

    With workqueue each runs on its own thread; else each launches, also while others do.
    """
    code = """
start = threading.Barrier(8)
found = set()
def work(i):
    start.wait()
    for _ in range(15):
        found.add(bits())
        xent.losses.sparse_softmax_cross_entropy([i % 3], [[1.0, 2.0, 3.0]])
workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(*found, set(seen), bits() in found, seen[-1])
"""
    each = "{1}" if layer == "workqueue" else "{2}"
    assert under(layer, WATCH + code) == [expected(), each, "True", "2"]


def test_beside_somebody_elses_kernels(layer: str) -> None:
    """Other threads launch parallel functions that this library knows nothing of."""
    code = """
own(10)
done = threading.Event()
totals = set()
def work():
    while not done.is_set():
        totals.add(own(1_000_000))
worker = threading.Thread(target=work)
worker.start()
found = {bits() for _ in range(60)}
while not totals:
    found.add(bits())
done.set()
worker.join()
print(*found, *totals)
"""
    want = str(sum(i % 7 for i in range(1_000_000)))
    assert under(layer, OWN_KERNEL + code) == [expected(), want]


def test_a_thread_without_a_name(layer: str) -> None:
    """A thread that the module ``threading`` does not know, running compiled code only."""
    code = """
import _thread
own(10)
@numba.njit(nogil=True)
def again(state):
    while state[0] == 0:
        own(10_000)
        state[1] += 1
state = np.ones(2, np.int64)
again(state)
bits()
state[:] = 0
_thread.start_new_thread(again, (state,))
while state[1] == 0:
    pass
found = {bits() for _ in range(5)}
assert _thread._count() == 1
print(*found)
state[0] = 1
while _thread._count() > 0:
    pass
"""
    assert under(layer, OWN_KERNEL + code) == [expected()]


def test_inside_a_parallel_region(layer: str) -> None:
    """Somebody's parallel loop calls Python in each iteration, and Python calls this library."""
    code = """
found = []
def call():
    found.append(bits())
@numba.njit(parallel=True)
def region(n):
    for i in numba.prange(n):
        with numba.objmode():
            call()
region(8)
print(*set(found), len(found))
"""
    assert under(layer, code) == [expected(), "8"]


def test_pool_with_its_own_thread_counts(layer: str) -> None:
    """``numba.set_num_threads`` counts for the thread that calls it; the bits are always the same."""
    code = """
def work(i):
    numba.set_num_threads(1 + i % 3)
    found = {bits() for _ in range(5)}
    assert numba.get_num_threads() == 1 + i % 3
    return found
with ThreadPoolExecutor(6) as pool:
    found = set().union(*pool.map(work, range(12)))
print(*found, numba.get_num_threads())
"""
    assert under(layer, code, threads=3) == [expected(), "3"]


SOAK = """
import random, time, zlib
def problem(seed):
    rng = np.random.default_rng(seed)
    rows, classes = [(3000, 100), (100, 3000), (40_000, 5), (7, 9), (64, 1000), (1, 1)][seed % 6]
    logits = rng.normal(size=(rows, classes)).astype(np.float32 if seed % 2 else np.float64)
    labels = rng.integers(0, classes, rows)
    dense = np.eye(classes, dtype=logits.dtype)[labels] if rows * classes < 10**5 else logits
    return seed, labels, dense, logits
def answer(seed, labels, dense, logits):
    if seed % 4 < 2:
        value, gradient = both(labels, logits)
    else:
        fn = xent.nn.softmax_cross_entropy_with_logits_v2
        value, gradient = xent.value_and_grad(fn)(dense, logits)
    return zlib.crc32(value.tobytes()), zlib.crc32(gradient.tobytes())
problems = [problem(seed) for seed in range(24)]
want = [answer(*each) for each in problems]
end = time.monotonic() + SECONDS
def work(i):
    choose, calls = random.Random(i), 0
    while time.monotonic() < end:
        numba.set_num_threads(choose.randint(1, numba.config.NUMBA_NUM_THREADS))
        for _ in range(5):
            k = choose.randrange(len(problems))
            assert answer(*problems[k]) == want[k], k
            calls += 1
    return calls
with ThreadPoolExecutor(16) as pool:
    print(sum(pool.map(work, range(16))) >= 16)
"""


@pytest.mark.parametrize(
    "seconds",
    [
        int(os.environ.get("SOAK_SECONDS", "2")),
        pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_soak(layer: str, seconds: int) -> None:
    """Sixteen threads, random problems of all sizes, random thread counts, for some time."""
    code = SOAK.replace("SECONDS", str(seconds))
    assert under(layer, code, threads=4, timeout=seconds + 300) == ["True"]


def test_masked_threads() -> None:
    """With one thread allowed, none is woken; the number is read for every call."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert threads.available_threads() == 1
    finally:
        numba.set_num_threads(before)
    assert threads.available_threads() in (1, before)


def test_a_raising_call_leaves_everything_usable(layer: str) -> None:
    """A label out of range is found by a parallel kernel."""
    code = """
labels[-1] = 100
for _ in range(3):
    try:
        bits()
    except ValueError as error:
        print("100" in str(error))
labels[-1] = 0
bits()
print(seen)
"""
    assert under(layer, WATCH + code) == ["True"] * 3 + ["[2,", "2,", "2,", "2]"]


@pytest.mark.parametrize("layer", ["tbb", "no such layer"])
def test_a_layer_that_cannot_be_loaded(layer: str) -> None:
    """One thread computes the same, and one warning says why it is one."""
    code = PROBLEM + 'sys.modules["numba.np.ufunc.tbbpool"] = None\nprint(bits(), bits())\n'
    code += 'assert str(xent.show_config()["threads"]).startswith("1, as Numba")'
    done = ended(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    assert done.stdout.split() == [expected()] * 2, done.stderr
    assert done.stderr.count("RuntimeWarning: Numba cannot start its threads") == 1, done.stderr


def test_without_openmp() -> None:
    """A slim image has no libgomp: Numba falls back to workqueue, and so do we."""
    code = """
sys.modules["numba.np.ufunc.tbbpool"] = sys.modules["numba.np.ufunc.omppool"] = None
print(bits(), numba.threading_layer())
"""
    out = python(PROBLEM + code, quiet=True, NUMBA_NUM_THREADS="2").split()
    assert out == [expected(), "workqueue"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such function here")
def test_fewer_processors_than_threads(layer: str) -> None:
    """A container may run on one processor, whatever number of threads was asked for."""
    code = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(bits())"
    assert under(layer, code, threads=6) == [expected()]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such function here")
def test_threads_of_a_process_with_one_processor(layer: str) -> None:
    """As many threads as processors that the process may use, however many the machine has."""
    code = PROBLEM.replace(
        "import numpy", "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nimport numpy"
    )
    code += WATCH + "print(bits(), seen, numba.config.NUMBA_NUM_THREADS)"
    variables = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": ""}
    assert python(code, **variables).split() == [expected(), "[1]", "1"]
