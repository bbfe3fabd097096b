"""Ctrl-C at any moment: KeyboardInterrupt, and a library that works as before."""

import gc
import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from calls import FIRST_WRT, FUNCTIONS, RIGHT, SPARSE
from processes import python

import numba_xent as xent
from numba_xent import _collections, _recycled

INTERRUPTED = """
import os, signal, threading, time
import numpy as np
import numba
import numba_xent as xent
rng = np.random.default_rng(0)
both = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)

def interrupt_after(seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)
signal.signal(signal.SIGALRM, signal.default_int_handler)

def in_another_thread(call):
    # What another thread gets: it must not wait for a lock that was left behind.
    found = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(60)
    assert found, "another thread waits for ever"
    return found[0]
"""


def test_during_a_long_call() -> None:
    """The call ends, and then the interruption is seen; afterwards nothing is different."""
    code = """
logits = rng.normal(size=(4000, 10_000)).astype(np.float32)
labels = rng.integers(0, 10_000, 4000)
small = both(labels[:10], logits[:10])
want = both(labels, logits)
met = 0
for _ in range(60):  # many, because there are moments that last for microseconds only
    try:
        interrupt_after(0.02 * rng.random() + 1e-3)
        while True:
            both(labels, logits)
    except KeyboardInterrupt:
        met += 1
    again = both(labels, logits)
    assert again[0] == want[0] and np.array_equal(again[1], want[1])
assert in_another_thread(lambda: both(labels[:10], logits[:10])[0]) == small[0]
assert (labels.min(), labels.max()) >= (0, 0)
print(met)
"""
    assert python(INTERRUPTED + code, quiet=True).split() == ["60"]


def test_between_many_short_calls() -> None:
    """Hundreds of interruptions at random moments, inside a collection of losses."""
    code = """
logits = rng.normal(size=(700, 100)).astype(np.float32)
labels = rng.integers(0, 100, 700)
want = both(labels, logits)[0]
before = numba.get_num_threads()
met = 0
for i in range(300):
    try:
        interrupt_after(rng.uniform(2e-4, 3e-3))
        while True:
            with xent.losses.collecting():
                both(labels, logits)
                both(labels[:3], logits[:3])
    except KeyboardInterrupt:
        met += 1
    assert xent.losses.get_losses() == []
assert both(labels, logits)[0] == want
assert in_another_thread(lambda: both(labels, logits)[0]) == want
assert numba.get_num_threads() == before
print(met)
"""
    assert python(INTERRUPTED + code).split() == ["300"]


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("numba:compile", 1),
        ("numba:run_pass", 300),
        *(pytest.param("numba:run_pass", n, marks=pytest.mark.slow) for n in (1, 10, 100)),
        *(pytest.param("numba:llvm_lock", n, marks=pytest.mark.slow) for n in (1, 10, 100)),
    ],
)
def test_during_a_compilation(what: str, number: int, tmp_path: object) -> None:
    """An interrupted compilation is gone on with, and its cache is whole."""
    code = f"""
logits = rng.normal(size=(3, 5))
call = lambda: float(xent.losses.sparse_softmax_cross_entropy([1, 2, 3], logits))
import numba_xent._cpu.backend
from numba.core import event
class Interrupt(event.Listener):
    started = 0
    def on_start(self, event):
        self.started += 1
        if self.started == {number}:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    def on_end(self, event):
        pass
with event.install_listener({what!r}, Interrupt()):
    try:
        call()
        print("was not interrupted")
    except KeyboardInterrupt:
        pass
assert numba.core.config.DISABLE_JIT == 0
value = in_another_thread(call)
assert call() == value
from numba_xent._cpu.compile import caches
print(value, [cache.problem for cache in caches() if cache.problem])
"""
    variables = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first = python(INTERRUPTED + code, **variables)
    assert "was not" not in first
    assert first.endswith(" []\n")
    code = "logits = rng.normal(size=(3, 5))\n"
    code += "print(float(xent.losses.sparse_softmax_cross_entropy([1, 2, 3], logits)), [])"
    assert python(INTERRUPTED + code, **variables) == first
    assert python(INTERRUPTED + code) == first


def interrupted(call: Callable[[], Any], moment: int) -> bool:
    """Call with Ctrl-C at so many-th moment; whether there was such a moment.

    The interpreter looks for signals when a function begins and after each call of one in C.
    """
    left = moment

    def look(_frame: object, event: str, _arg: object) -> None:
        nonlocal left
        left -= event in ("call", "c_return")
        if left == 0:
            raise KeyboardInterrupt  # which is the end of this profile as well

    sys.setprofile(look)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_at_every_moment_of_a_call() -> None:
    """Nothing of a call stays, neither its losses nor a lock nor memory, wherever it ends."""
    large = np.zeros((1100, 1000), np.float32)
    both = [xent.value_and_grad(fn, FIRST_WRT[fn]) for fn in FUNCTIONS]

    def calls() -> list[Any]:
        with xent.losses.collecting():
            got = [call(**RIGHT[fn]) for fn, call in zip(FUNCTIONS, both, strict=True)]
            collected = xent.losses.get_losses()
        got.append(xent.value_and_grad(SPARSE)(labels=np.zeros(1100, int), logits=large))
        return [np.asarray(a).tobytes() for a in itertools.chain(*got, collected)]

    want = calls()
    gc.collect()
    living, threads = len(_recycled._living), numba.get_num_threads()
    moments = 0
    gc.disable()  # it would call functions of its own now and then
    try:
        while interrupted(calls, moments + 1):
            moments += 1
            assert _collections._current.get() is None, moments
            assert len(_recycled._living) == living, moments
    finally:
        gc.enable()
    assert moments > 500
    assert numba.get_num_threads() == threads
    again: list[Any] = []
    thread = threading.Thread(target=lambda: again.append(calls()), daemon=True)
    thread.start()
    thread.join(60)
    assert again == [want]
    assert calls() == want


def test_a_producer_that_is_interrupted() -> None:
    """KeyboardInterrupt of an argument's own method is not taken for an error of the argument."""

    class Interrupted:
        def __array__(self, dtype: object = None, copy: object = None) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SPARSE(labels=[0], logits=Interrupted())
