"""Memory of large outputs is used again when they are gone, and by nobody before that."""

import gc
import mmap
import os
import resource
import sys
import threading
import tracemalloc
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest
from processes import python

import numba_xent as xent
from numba_xent import _arrays, _recycled

V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SIZE = _arrays._LARGE

pytestmark = pytest.mark.skipif(
    not hasattr(mmap, "MADV_FREE"), reason="the system cannot be told that it may take pages"
)


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[deque]:
    """No blocks from before, and none for those after."""
    gc.collect()
    _recycled._kept.clear()
    yield _recycled._kept
    _recycled._kept.clear()


def address(a: np.ndarray) -> int:
    """Where its first element lies."""
    return a.ctypes.data


def test_used_again() -> None:
    """By an array of the same size or a little less, but not by a larger or a much smaller one."""
    first = _recycled.room(SIZE)
    place = address(first)
    del first
    same = _recycled.room(SIZE)
    assert address(same) == place
    del same
    smaller = _recycled.room(SIZE - SIZE // 10)
    assert address(smaller) == place
    assert smaller.nbytes == SIZE - SIZE // 10
    del smaller
    others = [_recycled.room(SIZE + 1), _recycled.room(SIZE // 2)]
    assert place not in map(address, others)


def test_not_while_it_is_seen() -> None:
    """Any view keeps the memory, whatever it was made of."""
    whole = _arrays.empty_like(np.broadcast_to(np.float32(0), (SIZE // 4, 2)))
    place = address(whole)
    views = [whole[5:6, :1].T, memoryview(whole), np.asarray(whole).view("i4")]
    del whole
    while views:
        other = _recycled.room(2 * SIZE)
        assert address(other) != place
        del other
        _recycled._kept.clear()
        views.pop()
    again = _recycled.room(2 * SIZE)
    assert address(again) == place


def test_gradients_in_recycled_memory() -> None:
    """They are all written: nothing is left of what was there."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1100, 1000)).astype(np.float32)
    labels = np.zeros_like(logits)
    labels[:, 3] = 1
    want = np.zeros_like(logits)
    xent.value_and_grad(V2)(labels, logits, out=want)
    places = []
    for _ in range(3):
        _, got = xent.value_and_grad(V2)(labels, logits)
        assert np.array_equal(got, want)
        places.append(address(got))
        got[:] = np.nan
        del got
    assert len(set(places)) == 1


def test_seen_by_tracemalloc() -> None:
    """Like the memory of any other array: while the array is there."""

    def arrays() -> list[int]:
        numpys = tracemalloc.DomainFilter(True, _recycled._DOMAIN)
        return [trace.size for trace in tracemalloc.take_snapshot().filter_traces([numpys]).traces]

    tracemalloc.start()
    try:
        a = _recycled.room(SIZE)
        there = arrays()
        del a
        gone = arrays()
    finally:
        tracemalloc.stop()
    assert there == [SIZE]
    assert gone == []


def test_no_more_than_two(nothing_kept: deque) -> None:
    """The oldest are given back to the system."""
    rooms = [_recycled.room(SIZE) for _ in range(5)]
    places = [address(a) for a in rooms]
    while rooms:
        rooms.pop(0)
    assert len(nothing_kept) == _recycled.KEPT
    again = [_recycled.room(SIZE) for _ in range(_recycled.KEPT)]
    assert {address(a) for a in again} == set(places[-_recycled.KEPT :])


def test_the_system_may_take_it() -> None:
    """Linux counts the pages as free for the taking."""
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("only Linux tells")
    got = python(
        "import numpy as np\n"
        "from numba_xent import _recycled\n"
        "a = _recycled.room(64 << 20); a[:] = 1; del a\n"
        "for line in open('/proc/self/smaps_rollup'):\n"
        "    if line.startswith('LazyFree'): print(int(line.split()[1]) << 10)\n"
    )
    assert int(got) >= 60 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit address spaces")
def test_nothing_is_kept_where_it_could_be_missing() -> None:
    """With a limit of the address space, kept memory would count."""
    got = python(
        "import resource\n"
        "from numba_xent import _recycled\n"
        "a = _recycled.room(1 << 22); del a; print(len(_recycled._kept))\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.RLIM_INFINITY))\n"
        "a = _recycled.room(1 << 22); del a; print(len(_recycled._kept))\n"
    )
    assert got.split() == ["1", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_children_begin_with_nothing() -> None:
    """They would copy pages before they write to them."""
    got = python(
        "import os, sys\n"
        "from numba_xent import _recycled\n"
        "a = _recycled.room(1 << 22); del a\n"
        "if os.fork() == 0:\n"
        "    os._exit(len(_recycled._kept))\n"
        "print(len(_recycled._kept), os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    assert got.split() == ["1", "0"]


def test_threads_share_nothing() -> None:
    """Each array has memory of its own, however many threads come and go."""
    wrong = []

    def work(number: int) -> None:
        for i in range(200):
            a = _recycled.room(SIZE)
            a[::4096] = number
            b = _recycled.room(SIZE + i * 1000)
            b[::4096] = number + 100
            if not (a[::4096] == number).all() or not (b[::4096] == number + 100).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a system gets memory that begins with a page all the same."""
    monkeypatch.setattr(_recycled, "_MAY_BE_TAKEN", None)
    for size in (1, SIZE, SIZE + 5):
        a = _recycled.room(size)
        assert a.shape == (size,)
        assert address(a) % mmap.PAGESIZE == 0
        del a
    assert not _recycled._kept


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch, nothing_kept: deque) -> None:
    """What is kept goes first; then it is a MemoryError like NumPy's."""
    a = _recycled.room(SIZE)
    del a
    real, refusals = mmap.mmap, [2]

    def refuse(*args: int, **options: int) -> mmap.mmap:
        refusals[0] -= 1
        if refusals[0] >= 0:
            raise OSError(12, "Cannot allocate memory")
        return real(*args, **options)

    monkeypatch.setattr(_recycled.mmap, "mmap", refuse)
    with pytest.raises(MemoryError, match=f"{3 * SIZE} bytes"):
        _recycled.room(3 * SIZE)
    assert not nothing_kept
    refusals[0] = 1
    assert _recycled.room(3 * SIZE).nbytes == 3 * SIZE


def test_limit_is_read_each_time(monkeypatch: pytest.MonkeyPatch, nothing_kept: deque) -> None:
    """A limit that is set later counts."""
    first = _recycled.room(SIZE)
    del first
    assert nothing_kept
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 40, resource.RLIM_INFINITY))
    second = _recycled.room(SIZE)
    assert not nothing_kept
    del second
    assert not nothing_kept


def test_where_pages_cannot_be_taken(monkeypatch: pytest.MonkeyPatch, nothing_kept: deque) -> None:
    """A system that refuses gets its memory back as soon as an array is gone."""
    monkeypatch.setattr(_recycled, "_MAY_BE_TAKEN", -1)
    a = _recycled.room(SIZE)
    del a
    assert not nothing_kept
    assert not _recycled._living


def test_no_python_code_runs_when_an_array_ends() -> None:
    """There Ctrl-C would be seen, and the exception that it raises would be lost."""
    array = [_recycled.room(SIZE)]
    calls = []
    gc.disable()  # it would call functions of its own now and then
    sys.setprofile(lambda frame, event, _: calls.append((event, frame.f_code.co_name)))
    try:
        array.clear()
    finally:
        sys.setprofile(None)
        gc.enable()
    assert ("c_call", sys._getframe().f_code.co_name) in calls  # the clearing itself
    assert not [name for event, name in calls if event == "call"]
    assert _recycled._kept
    assert not _recycled._living
