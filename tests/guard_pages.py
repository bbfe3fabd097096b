"""Calls whose operands and outputs touch pages that nobody may read or write.

Each array lies at the beginning or at the end of memory that is fenced by such pages, at every
alignment, among bytes that must not change. Compiled code that reads or writes one byte beyond
kills the process; so this is a program, which prints how many calls it survived:

    python tests/guard_pages.py float32
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np

import numba_xent as xent
from numba_xent import _problem

PAGE = mmap.PAGESIZE
ROOM = 16 * PAGE
GUARD = 0xA5
V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SOFTMAX_LOSS = xent.losses.softmax_cross_entropy
SPARSE_LOSS = xent.losses.sparse_softmax_cross_entropy

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Fenced:
    """Memory between two pages that nobody may touch."""

    def __init__(self, room: int = ROOM) -> None:
        self.room = -(-room // PAGE) * PAGE
        self.map = mmap.mmap(-1, self.room + 2 * PAGE)
        whole = np.frombuffer(self.map, np.uint8)
        self.start = whole.ctypes.data + PAGE
        self.bytes = whole[PAGE : PAGE + self.room]
        for fence in (whole.ctypes.data, self.start + self.room):
            if _libc.mprotect(fence, PAGE, 0) != 0:
                raise OSError(ctypes.get_errno(), "mprotect")

    def place(self, shape: tuple[int, ...], dtype: Any, offset: int, at_end: bool) -> np.ndarray:
        """An array so many bytes after the first fence, or before the second, filled with guards."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        first = self.room - size - offset if at_end else offset
        assert 0 <= first <= self.room - size
        self.bytes[:] = GUARD
        self.used = slice(first, first + size)
        return self.bytes[self.used].view(dtype).reshape(shape)

    def check(self) -> None:
        """Nothing beside the array has changed."""
        assert (self.bytes[: self.used.start] == GUARD).all(), "bytes before an array were written"
        assert (self.bytes[self.used.stop :] == GUARD).all(), "bytes after an array were written"


class FencedNumpy:
    """NumPy, but for its allocations, which are fenced: where losses and gradients are put."""

    def __init__(self) -> None:
        self.fences: list[Fenced] = []
        self.offset, self.at_end = 0, False

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> np.ndarray:
        """An array of guards."""
        shape = shape if isinstance(shape, tuple) else (shape,)
        fence = Fenced(int(np.prod(shape)) * np.dtype(dtype).itemsize + 64)
        self.fences.append(fence)
        return fence.place(shape, dtype, self.offset, self.at_end)

    def empty_like(self, a: np.ndarray, **_: Any) -> np.ndarray:
        """The same, of a shape and dtype."""
        return self.empty(a.shape, a.dtype)


@contextmanager
def fenced_outputs() -> Iterator[FencedNumpy]:
    """Fence what the library allocates for its results."""
    fenced = FencedNumpy()
    _problem.np = fenced  # type: ignore[assignment]
    try:
        yield fenced
    finally:
        _problem.np = np  # type: ignore[assignment]


Numbers = dict[str, np.ndarray]


def problem(dtype: Any, shape: tuple[int, ...], axis: int, labels: Any) -> tuple[Numbers, int]:
    """Operands of a dense problem, or with integer `labels` None of a sparse one."""
    rng = np.random.default_rng(shape[axis])
    batch = shape[:axis] + shape[axis + 1 :]
    operands = {"logits": (4 * rng.standard_normal(shape)).astype(dtype)}
    if labels in ("i4", "i8"):
        operands["labels"] = np.asarray(rng.integers(0, shape[axis], batch), labels)
        operands["labels"].flat[:1] = shape[axis] - 1
        operands["weights"] = rng.random(batch).astype(dtype)
    else:
        operands["labels"] = rng.integers(0, 2, shape).astype(labels)
        operands["upstream"] = rng.random(batch).astype(dtype)
    return operands, axis


def compute(operands: Numbers, axis: int, out: np.ndarray | None) -> tuple[bytes, bytes]:
    """The value and the gradient; the value alone must have the same bits."""
    kwargs: dict[str, Any] = dict(operands)
    upstream = kwargs.pop("upstream", None)
    fn: Callable[..., Any] = SPARSE_LOSS if "weights" in kwargs else V2
    if fn is V2:
        kwargs["axis"] = axis
    else:
        kwargs["reduction"] = "none"
    value, gradient = xent.value_and_grad(fn)(**kwargs, upstream=upstream, out=out)
    alone = fn(**kwargs)
    assert np.asarray(alone).tobytes() == np.asarray(value).tobytes()
    return np.asarray(value).tobytes(), np.asarray(gradient).tobytes()


def cases(dtype: Any) -> Iterator[tuple[tuple[int, ...], int, Any]]:
    """Shapes, class axes and dtypes of labels: every tail of rows and of columns."""
    lanes = 64 // (8 if np.dtype(dtype) == np.float64 else 4)
    for tail in range(lanes + 1):
        yield (3, 64 + 2 * lanes + tail), 1, dtype  # rows
        yield (2, 64 + lanes + tail), 1, "i4"
    for count in range(1, 2 * lanes + 2):
        yield (count, 7), 1, dtype  # few classes side by side
        yield (count, 3), 1, "i8"
        yield (9, count), 0, dtype  # columns
        yield (2, 5, count), 1, dtype
    for classes in range(1, 66):
        yield (5, classes), 1, "i8"
        yield (lanes + 3, classes), 1, dtype
    for labels in ("?", "i1", "u1", "i4", "i8", "f2", "f4", "f8", ml_dtypes.bfloat16):
        yield (5, 83), 1, labels
        yield (19, 11), 1, labels
        if labels not in ("i4", "i8"):
            yield (11, 19), 0, labels


def survive(dtype: Any, places: list[tuple[int, bool]]) -> int:
    """Compute every case at every place; how many calls that were."""
    fences = {name: Fenced() for name in ("logits", "labels", "weights", "upstream", "out")}
    calls = 0
    for shape, axis, labels in cases(dtype):
        operands, axis = problem(dtype, shape, axis, labels)  # noqa: PLW2901
        want = compute(operands, axis, None)
        for offset, at_end in places:
            placed = {}
            for i, (name, a) in enumerate(operands.items()):
                own = (offset + 16 * i) % 64 // a.itemsize * a.itemsize if not at_end else offset
                own = own // a.itemsize * a.itemsize
                placed[name] = fences[name].place(a.shape, a.dtype, own, at_end)
                placed[name][...] = a
            out = fences["out"].place(shape, dtype, offset, at_end)
            with fenced_outputs() as made:
                made.offset, made.at_end = offset, at_end
                got = compute(placed, axis, out)
            assert got == want, (shape, axis, labels, offset, at_end)
            for name, a in operands.items():
                assert placed[name].tobytes() == a.tobytes(), name
                fences[name].check()
            fences["out"].check()
            for fence in made.fences:
                fence.check()
            calls += 2
    return calls


def large(dtype: Any) -> int:
    """Gradients written past the caches, and examples in several pieces, on several threads."""
    itemsize = np.dtype(dtype).itemsize
    shapes = [
        ((4 * 2**20 // (1000 * itemsize) + 3, 1000), 1),
        ((1100 * 1000 // 257, 257), 1),
        ((2, 300_007), 1),
        ((1000, 1056), 0),  # columns, of whole cache lines if the first is one
        ((1000, 1057), 0),
    ]
    calls = 0
    for shape, axis in shapes:
        operands, _ = problem(dtype, shape, axis, dtype)
        want = compute(operands, axis, None)
        size = operands["logits"].nbytes + 4 * PAGE
        fences = {name: Fenced(size) for name in ("logits", "labels", "upstream", "out")}
        for offset, at_end in itertools.product((0, itemsize, 64 - itemsize), (False, True)):
            placed = {}
            for name, a in operands.items():
                placed[name] = fences[name].place(a.shape, a.dtype, offset, at_end)
                placed[name][...] = a
            out = fences["out"].place(shape, dtype, offset, at_end)
            assert compute(placed, axis, out) == want, (shape, offset, at_end)
            for fence in fences.values():
                fence.check()
            calls += 2
    return calls


def main(name: str, step: int = 1) -> None:
    """Survive, and say how often; `step` leaves out alignments."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    offsets = range(0, 64, dtype.itemsize * step)
    places = list(itertools.product(offsets, (False, True)))
    print(survive(dtype, places), large(dtype))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
