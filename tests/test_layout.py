"""Two strided axes for several arrays at once, against the offsets that NumPy computes."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_xent._layout import Layout, broadcast_strides, has_internal_overlap, two_axes

Shape = tuple[int, ...]


def offsets(shape: Shape, strides: Shape) -> np.ndarray:
    """Where each element lies, in bytes from the first, as NumPy has it, flat in C order."""
    total = np.zeros(shape, np.int64)
    for axis, (n, stride) in enumerate(zip(shape, strides, strict=True)):
        steps = np.arange(n) * stride
        total += steps.reshape((n,) + (1,) * (len(shape) - axis - 1))
    return total.ravel()


def fits(layout: Layout, index: int, shape: Shape, strides: Shape) -> bool:
    """Whether the two strides give the offsets of every element."""
    first, second = layout.strides[index]
    got = np.add.outer(np.arange(layout.outer) * first, np.arange(layout.inner) * second)
    return np.array_equal(got.ravel(), offsets(shape, strides))


def possible(outer: int, inner: int, shape: Shape, strides: Shape) -> bool:
    """Whether any two strides give the offsets of every element, for axes of these lengths."""
    grid = offsets(shape, strides).reshape(outer, inner)
    first = grid[1, 0] if outer > 1 else 0
    second = grid[0, 1] if inner > 1 else 0
    return np.array_equal(grid, np.add.outer(np.arange(outer) * first, np.arange(inner) * second))


def copied(shape: Shape, strides: list[Shape], sizes: list[int], at: int) -> int:
    """The bytes that must be copied if the axes are cut at a place."""
    outer, inner = int(np.prod(shape[:at], dtype=int)), int(np.prod(shape[at:], dtype=int))
    return sum(
        size
        for own, size in zip(strides, sizes, strict=True)
        if not possible(outer, inner, shape, own)
    )


@st.composite
def views(draw: st.DrawFn, shape: Shape) -> Shape:
    """Strides of an array of a shape: any order of axes, gaps, negative, broadcast or arbitrary."""
    strides = [0] * len(shape)
    step = draw(st.sampled_from((2, 4, 8)))
    if draw(st.integers(0, 9)) == 0:
        return tuple(draw(st.integers(-40, 40)) * step for _ in shape)
    order = draw(st.permutations(range(len(shape)))) if draw(st.booleans()) else range(len(shape))
    for axis in reversed(order):
        gap = draw(st.sampled_from((1, 1, 1, 2, 3)))
        sign = draw(st.sampled_from((1, 1, 1, -1, 0)))
        strides[axis] = sign * step * gap
        step *= gap * shape[axis]
    return tuple(strides)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Shape, list[Shape], list[int]]:
    """A batch shape, and the strides and sizes of a few arrays."""
    shape = tuple(draw(st.lists(st.sampled_from((1, 1, 2, 3, 4)), max_size=5)))
    count = draw(st.integers(1, 4))
    return (
        shape,
        [draw(views(shape)) for _ in range(count)],
        draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)),
    )


@given(batches())
def test_offsets(batch: tuple[Shape, list[Shape], list[int]]) -> None:
    """What is not None is right, what is None is impossible, and no cut copies less."""
    shape, strides, sizes = batch
    layout = two_axes(shape, strides, sizes)
    assert layout.outer * layout.inner == np.prod(shape, dtype=int)
    assert len(layout.strides) == len(strides)
    cost = 0
    for index, own in enumerate(strides):
        if layout.strides[index] is None:
            assert not possible(layout.outer, layout.inner, shape, own)
            cost += sizes[index]
        else:
            assert fits(layout, index, shape, own)
    assert cost <= min(copied(shape, strides, sizes, at) for at in range(len(shape) + 1))


@pytest.mark.parametrize(
    ("shape", "strides", "outer", "inner", "want"),
    [
        ((), [()], 1, 1, [(0, 0)]),
        ((5,), [(4,), (0,), (-8,)], 1, 5, [(0, 4), (0, 0), (0, -8)]),
        ((2, 3), [(12, 4)], 1, 6, [(0, 4)]),
        ((2, 3), [(4, 8)], 2, 3, [(4, 8)]),
        ((2, 3), [(12, 4), (0, 4)], 2, 3, [(12, 4), (0, 4)]),
        ((2, 3), [(12, 4), (4, 0)], 2, 3, [(12, 4), (4, 0)]),
        ((2, 3, 4), [(48, 16, 4), (400, 16, 4)], 2, 12, [(48, 4), (400, 4)]),
        ((2, 3, 4), [(48, 16, 4), (120, 40, 4)], 6, 4, [(16, 4), (40, 4)]),
        ((2, 1, 4), [(16, 999, 4)], 1, 8, [(0, 4)]),
    ],
)
def test_cuts(shape: Shape, strides: list[Shape], outer: int, inner: int, want: list[Any]) -> None:
    """The cut of a few shapes, by hand."""
    layout = two_axes(shape, strides, [1] * len(strides))
    assert (layout.outer, layout.inner, list(layout.strides)) == (outer, inner, want)


def test_the_smaller_array_is_copied() -> None:
    """If two arrays want different cuts, the one that is cheaper to copy gives way."""
    shape = (2, 3, 4)
    front, back = (400, 16, 4), (120, 40, 4)
    assert two_axes(shape, [front, back], [10, 1]).strides == ((400, 4), None)
    assert two_axes(shape, [front, back], [1, 10]).strides == (None, (40, 4))


@given(st.lists(st.integers(1, 4), max_size=4), st.data())
def test_broadcast_strides(shape: list[int], choose: st.DataObject) -> None:
    """The strides are those of ``np.broadcast_to``, up to axes of length 1."""
    own_shape = tuple(n if choose.draw(st.booleans()) else 1 for n in shape)
    if choose.draw(st.integers(0, 4)) == 0:
        own_shape = ()
    own = np.empty(own_shape, np.float32)
    got = broadcast_strides(tuple(shape), own.shape, own.strides)
    want = np.broadcast_to(own, shape).strides
    assert len(got) == len(want)
    assert all(g == w for g, w, n in zip(got, want, shape, strict=True) if n > 1)


def shares(shape: Shape, strides: Shape, itemsize: int) -> bool:
    """Whether any byte belongs to two elements, one by one."""
    every = (offsets(shape, strides)[:, None] + np.arange(itemsize)).ravel()
    return len(np.unique(every)) < len(every)


@given(st.lists(st.integers(1, 5), max_size=4), st.sampled_from(("f2", "f4", "f8")), st.data())
def test_overlap_of_views(shape: list[int], dtype: str, choose: st.DataObject) -> None:
    """Exact for what slicing, transposing and broadcasting make."""
    array = np.empty(shape, dtype)
    array = array[
        tuple(slice(None, None, choose.draw(st.sampled_from((1, 2, -1, -3)))) for _ in array.shape)
    ]
    array = array.transpose(choose.draw(st.permutations(range(array.ndim))))
    wider = [choose.draw(st.integers(1, 3)) if n == 1 else n for n in array.shape]
    more = choose.draw(st.lists(st.integers(1, 3), max_size=1))
    array = np.broadcast_to(array, (*more, *wider))
    got = has_internal_overlap(array.shape, array.strides, array.itemsize)
    assert got == shares(array.shape, array.strides, array.itemsize)


@given(st.lists(st.integers(1, 4), max_size=3), st.data())
def test_overlap_of_anything(shape: list[int], choose: st.DataObject) -> None:
    """No overlap is ever missed, whatever the strides."""
    strides = tuple(choose.draw(st.integers(-30, 30)) for _ in shape)
    if shares(tuple(shape), strides, 4):
        assert has_internal_overlap(tuple(shape), strides, 4)


def test_overlap_of_small_shapes() -> None:
    """Both answers occur: a checker that always says the same would not pass."""
    found = {
        has_internal_overlap((2, 3), strides, 4)
        for strides in itertools.product((0, 4, 8, 12), repeat=2)
    }
    assert found == {True, False}
    assert not has_internal_overlap((2, 3), (12, 4), 4)
    assert not has_internal_overlap((2, 3), (4, 8), 4)
    assert has_internal_overlap((2, 3), (4, 4), 4)
    assert has_internal_overlap((2, 3), (12, 2), 4)
    assert has_internal_overlap((3,), (0,), 4)
    assert not has_internal_overlap((1, 3), (0, 4), 4)
    assert not has_internal_overlap((), (), 4)
