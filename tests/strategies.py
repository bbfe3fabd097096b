"""Problems and memory layouts for the property tests.

Hypothesis chooses the shapes, the dtypes, the kind of numbers and a seed; NumPy fills the arrays
from the seed, which is much faster than drawing each number and shrinks where it matters.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16)
# Around the widths of registers, tiles and chunks, where the schedules change.
CLASSES = (1, 2, 3, 4, 5, 7, 8, 10, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 1000)
LONG = (500, 1024, 2049, 4096, 5000, 8193, 20_000)
EPS = {dtype: float(ml_dtypes.finfo(dtype).eps) for dtype in DTYPES}


@dataclass
class Problem:
    """Logits, labels of the same shape that are distributions, and class numbers."""

    labels: np.ndarray
    logits: np.ndarray
    classes: np.ndarray
    axis: int

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the logits."""
        return self.logits.dtype

    def moved(self) -> tuple[np.ndarray, np.ndarray]:
        """Contiguous copies of labels and logits with the class axis last."""
        return tuple(
            np.moveaxis(a, self.axis, -1).copy(order="C") for a in (self.labels, self.logits)
        )


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Logits of an untrained network."""
    return rng.normal(size=shape)


def spread(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Logits so far apart that most probabilities underflow."""
    return rng.normal(size=shape) * 200


def tied(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Logits with equal maxima."""
    return rng.integers(-1, 2, shape).astype(np.float64)


def offset(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Logits far from zero."""
    return rng.normal(size=shape) - 300


KINDS = (normal, spread, tied, offset)


def soft(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Label distributions along `axis`."""
    labels = rng.exponential(size=shape)
    return labels / labels.sum(axis, keepdims=True)


def hard(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """One-hot labels along `axis`."""
    labels = np.zeros(shape)
    outer = (*shape[:axis], 1, *shape[axis + 1 :])
    np.put_along_axis(labels, rng.integers(0, shape[axis], outer), 1, axis)
    return labels


@st.composite
def small_shapes(draw: st.DrawFn, max_rank: int, max_size: int) -> tuple[int, ...]:
    """Outer dimensions and, last, the number of classes: what a failure shrinks to."""
    n_classes = draw(st.sampled_from([n for n in CLASSES if n <= max_size]))
    outer = draw(st.lists(st.integers(1, 9), max_size=max_rank - 1))
    while np.prod(outer, dtype=int) * n_classes > max_size:
        outer[int(np.argmax(outer))] = 1
    return (*outer, n_classes)


@st.composite
def wild_shapes(draw: st.DrawFn, max_rank: int, max_size: int) -> tuple[int, ...]:
    """The same from a seed: larger, and spread evenly over the ranks and sizes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = rng.integers(1, max_rank + 1)
    n_classes = rng.choice([n for n in (*CLASSES, *LONG) if n <= max_size])
    room = max_size / n_classes
    outer = np.exp(rng.dirichlet(np.ones(rank))[1:] * np.log(room) * rng.uniform(0.3, 1)).astype(
        int
    )
    return (*outer.tolist(), int(n_classes))


@st.composite
def shapes(
    draw: st.DrawFn, max_rank: int = 5, max_size: int = 60_000
) -> tuple[tuple[int, ...], int]:
    """A shape of rank 1 to `max_rank` and the class axis in it."""
    limits = max_rank, max_size
    *outer, n_classes = draw(small_shapes(*limits) | wild_shapes(*limits))
    axis = draw(st.integers(0, len(outer)))
    return (*outer[:axis], n_classes, *outer[axis:]), axis


@st.composite
def problems(
    draw: st.DrawFn,
    dtypes: tuple[np.dtype, ...] = DTYPES,
    kinds: tuple[Callable, ...] = KINDS,
    last_axis: bool = False,
    **limits: int,
) -> Problem:
    """A dense and sparse problem in one of the dtypes."""
    shape, axis = draw(shapes(**limits))
    dtype = draw(st.sampled_from(dtypes))
    kind = draw(st.sampled_from(kinds))
    label_kind = draw(st.sampled_from((soft, hard)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if last_axis:
        shape, axis = (*shape[:axis], *shape[axis + 1 :], shape[axis]), len(shape) - 1
    outer = shape[:axis] + shape[axis + 1 :]
    return Problem(
        label_kind(rng, shape, axis).astype(dtype),
        kind(rng, shape).astype(dtype),
        np.asarray(rng.integers(0, shape[axis], outer), draw(st.sampled_from(("i4", "i8")))),
        axis,
    )


# --- the same numbers, somewhere else in memory


def fortran(a: np.ndarray) -> np.ndarray:
    """All axes in reverse order."""
    return a.copy(order="F")


def sliced(a: np.ndarray) -> np.ndarray:
    """Every second element of each dimension of a larger array."""
    big = np.ones([2 * n + 1 for n in a.shape], a.dtype)
    view = big[(..., *(slice(1, None, 2) for _ in a.shape))]
    view[...] = a
    return view


def padded_rows(a: np.ndarray) -> np.ndarray:
    """Contiguous in the last axis, with a gap after each row."""
    if a.ndim == 0:
        return a.copy()
    view = np.ones((*a.shape[:-1], a.shape[-1] + 3), a.dtype)[..., : a.shape[-1]]
    view[...] = a
    return view


def reversed_axes(a: np.ndarray) -> np.ndarray:
    """Negative strides in every dimension."""
    flip = (..., *(slice(None, None, -1) for _ in a.shape))
    return a[flip].copy()[flip]


def rotated(a: np.ndarray) -> np.ndarray:
    """The last axis first in memory."""
    if a.ndim == 0:
        return a.copy()
    return np.moveaxis(np.moveaxis(a, -1, 0).copy(), 0, -1)


def middle(a: np.ndarray) -> np.ndarray:
    """The last axis in the middle of memory."""
    if a.ndim == 0:
        return a.copy()
    return np.moveaxis(np.moveaxis(a, -1, a.ndim // 2).copy(), a.ndim // 2, -1)


def read_only(a: np.ndarray) -> np.ndarray:
    """Memory that may not be written."""
    b = a.copy()
    b.flags.writeable = False
    return b


def mapped(a: np.ndarray) -> np.ndarray:
    """Memory of a file."""
    with tempfile.TemporaryFile() as file:
        b = np.memmap(file, a.dtype, "w+", shape=a.shape or (1,))
    b = b.reshape(a.shape)
    b[...] = a
    return b


def byte_swapped(a: np.ndarray) -> np.ndarray:
    """The other byte order, where the dtype has one."""
    return a.astype(a.dtype.newbyteorder())


def misaligned(a: np.ndarray) -> np.ndarray:
    """An address that no processor likes."""
    b = np.ndarray(a.shape, a.dtype, bytearray(a.nbytes + 8), 1 if a.dtype.itemsize > 1 else 0)
    b[...] = a
    return b


def offset_by_one(a: np.ndarray) -> np.ndarray:
    """Aligned for the dtype, but for no register."""
    b = np.empty(a.size + 1, a.dtype)[1:].reshape(a.shape)
    b[...] = a
    return b


LAYOUTS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    fortran,
    sliced,
    padded_rows,
    reversed_axes,
    rotated,
    middle,
    read_only,
    mapped,
    byte_swapped,
    misaligned,
    offset_by_one,
)
"""Where an array may lie."""
REORDERED = (fortran, rotated, middle)
"""Those of them that change which axis is nearest in memory.

A long class axis that is not the nearest is summed in another order: the last bit may differ.
"""
WRITABLE_LAYOUTS = tuple(layout for layout in LAYOUTS if layout is not read_only)


def bits(a: Any) -> np.ndarray:
    """The bytes of an array's elements in C order and native byte order."""
    a = np.asarray(a)
    a = np.ascontiguousarray(a.astype(a.dtype.newbyteorder("="))).reshape(a.shape)
    return np.frombuffer(a.tobytes(), np.uint8)


def assert_same_bits(got: Any, want: Any, message: str = "") -> None:
    """The same dtype, shape and bits; two NaN count as the same."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype.newbyteorder("=") == want.dtype.newbyteorder("="), message
    assert got.shape == want.shape, message
    if np.array_equal(bits(got), bits(want)):
        return
    g, w = got.astype(np.float64), want.astype(np.float64)
    same = (g == w) & (np.signbit(g) == np.signbit(w)) | (np.isnan(g) & np.isnan(w))
    where = tuple(int(i[0]) for i in np.nonzero(~same)) if g.ndim else ()
    assert same.all(), f"{message} {np.count_nonzero(~same)} of {same.size}: {g[where]} {w[where]}"
