"""Python threads, forks and thread counts: no abort, no hang, and always the same bits.

Numba's workqueue layer aborts the process if two threads launch parallel kernels at once, and GNU
OpenMP hangs in a process that was forked after its first parallel region.
"""

import functools
import os

import numba
import pytest
from processes import python

from numba_xent._cpu import threads

PROBLEM = """
import hashlib, os, signal, sys, threading, warnings
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


@functools.cache
def layers() -> tuple[str, ...]:
    """The threading layers that this installation of Numba can load."""
    probe = """
import numba, numpy as np
@numba.njit(parallel=True)
def f(n):
    total = 0
    for i in numba.prange(n):
        total += i
    return total
f(10)
print(numba.threading_layer())
"""
    found = []
    for layer in ("workqueue", "omp", "tbb"):
        try:
            python(probe, NUMBA_THREADING_LAYER=layer)
        except AssertionError:
            continue
        found.append(layer)
    return tuple(found)


@pytest.fixture(params=["workqueue", "omp", "tbb"])
def layer(request: pytest.FixtureRequest) -> str:
    """A threading layer that can be loaded."""
    if request.param not in layers():
        pytest.skip(f"Numba cannot load {request.param} here")
    return request.param


@functools.cache
def expected() -> str:
    """The bits that one thread computes."""
    return python(PROBLEM + "print(bits())", NUMBA_NUM_THREADS="1").strip()


WATCH = """
from numba_xent._cpu import backend
begin, begun = backend.begin_parallel, []
def watch():
    begun.append(begin())
    return begun[-1]
backend.begin_parallel = watch
"""


def test_one_thread() -> None:
    """With one thread even a large problem is computed by the serial kernel."""
    code = PROBLEM + WATCH + "print(bits(), begun)"
    assert python(code, NUMBA_NUM_THREADS="1").split() == [expected(), "[False]"]


def test_the_problem_is_parallel(layer: str) -> None:
    """The problem of these tests does run in parallel: otherwise they would prove nothing."""
    code = PROBLEM + WATCH + "print(bits(), begun, numba.threading_layer())"
    out = python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2").split()
    assert out == [expected(), "[True]", layer]


def test_many_python_threads(layer: str) -> None:
    """Eight threads start at once and call again and again, some of them small problems."""
    code = (
        PROBLEM
        + """
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
print(*found)
"""
    )
    out = python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    assert out.split() == [expected()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_fork(layer: str) -> None:
    """A child forked after a parallel call computes, as do its own child and its parent again."""
    code = (
        PROBLEM
        + """
signal.alarm(140)  # nobody waits for a child that hangs
def fork(inside):
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forking beside threads
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        print(bits())
        inside()
        sys.stdout.flush()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the child ended with {status}"
print(bits())
fork(lambda: fork(lambda: None))
print(bits())
"""
    )
    out = python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    assert out.split() == [expected()] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_fork_beside_a_running_kernel(layer: str) -> None:
    """Forked while another thread computes, a child does not wait for that thread."""
    code = (
        PROBLEM
        + """
signal.alarm(140)
want = bits()
done = threading.Event()
def work():
    while not done.is_set():
        bits()
worker = threading.Thread(target=work)
worker.start()
warnings.simplefilter("ignore")
statuses = []
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if bits() == want else 1)
    statuses.append(os.waitpid(child, 0)[1])
done.set()
worker.join()
print(*statuses)
"""
    )
    expected()  # the child then finds the serial kernel in the cache
    out = python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    assert out.split() == ["0"] * 5


def test_one_parallel_kernel_at_a_time() -> None:
    """Whoever comes second takes the serial twin; afterwards the first place is free again."""
    if numba.get_num_threads() == 1:
        pytest.skip("there is one thread")
    assert threads.begin_parallel()
    try:
        assert not threads.begin_parallel()
    finally:
        threads.end_parallel()
    assert threads.begin_parallel()
    threads.end_parallel()


def test_masked_threads() -> None:
    """With one thread allowed, none is woken; the number is read for every call."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert not threads.begin_parallel()
    finally:
        numba.set_num_threads(before)


def test_a_raising_call_frees_the_place() -> None:
    """A label out of range is found by a parallel kernel, which must not stay busy."""
    code = (
        PROBLEM
        + """
from numba_xent._cpu import threads
bits()
labels[-1] = 100
for _ in range(3):
    try:
        bits()
    except ValueError as error:
        print("100" in str(error))
print(threads.begin_parallel())
"""
    )
    assert python(code, NUMBA_NUM_THREADS="2").split() == ["True"] * 4
