"""Array-likes become arrays by TensorFlow's rules: who chose a dtype keeps it."""

import array
import enum
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hostile import ByDlpack, ByInterface, ByMethod

import numba_xent as xent
from numba_xent._arrays import (
    _address_by_ctypes,
    _address_of_data,
    address,
    as_array,
    as_axis,
    in_dtype,
    native,
    to_dtype,
)

F16, F32, F64 = np.float16, np.float32, np.float64
BF16 = ml_dtypes.bfloat16
I32, I64 = np.int32, np.int64


class Label(enum.IntEnum):
    """Python integers with a name."""

    CAT = 0
    DOG = 1


PYTHON = [
    (1.5, F32),
    (-0.0, F32),
    (float("nan"), F32),
    (float("inf"), F32),
    (3e38, F32),
    (1e-60, F32),
    ([1.0, 2.0], F32),
    ((1.0, 2.0), F32),
    ([(1.0, 2.0), [3.0, 4.0]], F32),
    ([], F32),
    ([[], []], F32),
    ([1, 2.0], F32),
    ([True, 2.0], F32),
    (3, I32),
    ([3, -4], I32),
    ((3, -4), I32),
    ([2**31 - 1, -(2**31)], I32),
    ([2**31], I64),
    ([-(2**31) - 1], I64),
    ([[0, 0, 2**40]], I64),
    ([2**63 - 1, -(2**63)], I64),
    ([True, 2], I32),
    ([Label.CAT, Label.DOG], I32),
    (True, np.bool_),
    ([True, False], np.bool_),
    (1j, np.complex128),
    ([1.0, 1j], np.complex128),
]


@pytest.mark.parametrize(("value", "dtype"), PYTHON)
def test_python_numbers(value: Any, dtype: type) -> None:
    """Floats become float32, integers int32 if they fit, bools bool."""
    got = as_array(value, "x")
    assert got.dtype == dtype
    with np.errstate(under="ignore"):
        want = np.array(value).astype(dtype)
    assert got.shape == want.shape
    assert np.array_equal(got, want, equal_nan=dtype == F32)


def test_python_floats_can_be_float64() -> None:
    """Where the caller says so, as weights beside float64 losses are."""
    got = as_array([0.1, 1e300], "x", F64)
    assert got.dtype == F64
    assert got.tolist() == [0.1, 1e300]
    assert as_array([1, 2], "x", F64).dtype == I32


NUMPY = [F16, BF16, F32, F64, np.longdouble, np.complex64, np.int8, np.uint8, np.int16, I32, I64]
NUMPY += [np.uint64, np.bool_, ">f4", ">i8"]


@pytest.mark.parametrize("dtype", NUMPY)
def test_numpy_keeps_its_dtype(dtype: Any) -> None:
    """Arrays are not copied, scalars and lists of them keep their dtype."""
    values = np.array([0, 1], dtype)
    got = as_array(values, "x")
    assert (address(got), got.strides, got.dtype) == (address(values), values.strides, values.dtype)
    assert as_array(values[1], "x").dtype == np.dtype(dtype).newbyteorder("=")
    assert as_array(values[1], "x").shape == ()
    for nested in ([values, values], [list(values), tuple(values)], (values[:1], values[1:])):
        got = as_array(nested, "x")
        assert got.dtype == np.dtype(dtype).newbyteorder("=")
        assert np.array_equal(got, np.stack([np.asarray(part) for part in nested]))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([F32(1), 2.0], F32),
        ([2.0, F32(1)], F32),
        ([F64(1), 2.0], F64),
        ([[F32(1), F32(2)], [3.0, 4.0]], F32),
        ([I32(1), 2], I32),
        ([I64(1), 2], I64),
        ([np.array([1.0, 2.0], F32), [3.0, 4.0]], F32),
    ],
)
def test_python_numbers_beside_numpy(value: Any, dtype: type) -> None:
    """A Python number is no reason to widen what somebody chose."""
    got = as_array(value, "x")
    assert got.dtype == dtype
    assert got.tolist() == np.array(value).tolist()


def test_subclasses() -> None:
    """Views of the same memory, as plain arrays: no matrix ever multiplies by its own rules."""

    class Own(np.ndarray):
        """A subclass of somebody's."""

    base = np.arange(6, dtype=F32).reshape(2, 3)
    for subclass in (np.matrix, Own, np.memmap):
        value = base.view(subclass)
        got = as_array(value, "x")
        assert type(got) is np.ndarray
        assert got.shape == (2, 3)
        assert np.shares_memory(got, base)


@pytest.mark.parametrize("wrap", [ByMethod, ByInterface, ByDlpack])
@pytest.mark.parametrize("dtype", [F32, F64, I64])
def test_protocols(wrap: type, dtype: type) -> None:
    """The dtype and the memory are those of the object."""
    values = np.array([[1, 2], [3, 4]], dtype)
    got = as_array(wrap(values), "x")
    assert got.dtype == dtype
    assert np.array_equal(got, values)
    assert np.shares_memory(got, values)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (memoryview(np.array([1, 2], F32)), F32),
        (memoryview(b"\1\2"), np.uint8),
        (bytearray(b"\1\2"), np.uint8),
        (array.array("f", [1, 2]), F32),
        (array.array("d", [1, 2]), F64),
        (array.array("i", [1, 2]), I32),
    ],
)
def test_buffers(value: Any, dtype: type) -> None:
    """Anything with a buffer is seen as it is, without a copy."""
    got = as_array(value, "x")
    assert got.dtype == dtype
    assert got.tolist() == [1, 2]
    assert np.shares_memory(got, np.asarray(memoryview(value)))


def test_objects_of_the_library_are_arrays() -> None:
    """What is collected can be an argument again."""
    with xent.losses.collecting():
        xent.losses.compute_weighted_loss(np.array([1.0, 2.0]), reduction="none")
        (loss,) = xent.losses.get_losses()
    got = as_array(loss, "x")
    assert got.dtype == F64
    assert got.tolist() == [1.0, 2.0]


def test_native() -> None:
    """Native, aligned memory is not copied; anything else is, in its own layout."""
    native_order = "<" if sys.byteorder == "little" else ">"
    foreign_order = "><"[native_order == ">"]
    for dtype in ("f2", "f4", "f8", "i4", "i8"):
        base = np.arange(12, dtype=native_order + dtype).reshape(3, 4)
        for same in (base, base.T, base[::-1, ::2], base[:, :1]):
            assert native(same) is same
        foreign = base.astype(foreign_order + dtype)
        got = native(foreign.T)
        assert got.dtype == base.dtype
        assert got.dtype.isnative
        assert np.array_equal(got, base.T)
        memory = np.zeros(base.nbytes + 1, np.uint8)
        askew = memory[1:].view(base.dtype).reshape(3, 4)
        askew[...] = base
        assert not askew.flags.aligned
        got = native(askew.T)
        assert got.flags.aligned
        assert got.strides == base.T.strides
        assert np.array_equal(got, base.T)


def test_misaligned_and_foreign_at_once() -> None:
    """Both faults are mended together."""
    memory = np.zeros(17, np.uint8)
    value = memory[1:].view(">f4" if sys.byteorder == "little" else "<f4")
    value[...] = [1, 2, 3, 4]
    got = native(value)
    assert got.flags.aligned
    assert got.dtype.isnative
    assert got.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("value", [3.5e38, -1e300, [3.5e38]])
def test_python_floats_that_do_not_fit(value: Any) -> None:
    """A number too large for float32 is refused, alone or in a list; the largest is not."""
    with pytest.raises(ValueError, match=r"x: .*does not fit float32"):
        as_array(value, "x")
    assert as_array(value, "x", F64).dtype == F64
    largest = float(np.finfo(F32).max)
    for fits in (largest, -largest, largest * (1 + 1e-9)):
        assert np.isfinite(as_array(fits, "x"))


GRID = np.zeros((4, 6), F32)


@pytest.mark.parametrize(
    "values",
    [
        GRID,
        GRID[1:, 2::3],
        GRID[::-1, ::-1],
        GRID.T,
        GRID[:0],
        GRID[2, 3, ...],
        np.broadcast_to(F32(1), (3, 2)),
        np.zeros(3, BF16),
        np.zeros(3, ">f8"),
        np.frombuffer(b"12345678 ", F32, 2),
        np.zeros(9, np.uint8)[1:].view(F64),
        np.ma.masked_array(GRID, GRID == 0)[1:],
        np.rec.array([(1, 2.0)] * 3)[1:],
    ],
)
def test_address(values: np.ndarray) -> None:
    """The address that is read from the object is the one that NumPy tells."""
    assert address is _address_of_data
    assert address(values) == values.ctypes.data == _address_by_ctypes(values)


def test_in_dtype() -> None:
    """Only what has another dtype or byte order is copied; too large numbers become infinite."""
    values = np.array([1.5, -1e300])
    assert in_dtype(values, "float64") is values
    narrow = in_dtype(values, "float32")
    assert narrow.dtype == F32
    np.testing.assert_array_equal(narrow, [1.5, -np.inf])
    swapped = in_dtype(values.astype(">f8"), "float64")
    assert swapped.dtype.isnative
    np.testing.assert_array_equal(swapped, values)


@pytest.mark.parametrize(
    ("dtype", "largest", "too_large"),
    [(F16, 65504.0, 65536.0), (BF16, 3.3e38, 3.4e38), (F32, 3.4e38, 1e39), (F64, 1e308, np.inf)],
)
def test_to_dtype(dtype: Any, largest: float, too_large: float) -> None:
    """A number that does not fit is infinite, without a warning."""
    for sign in (1, -1):
        assert np.isfinite(to_dtype(sign * largest, np.dtype(dtype)))
        assert to_dtype(sign * too_large, np.dtype(dtype)) == sign * np.inf
    assert np.isnan(to_dtype(np.nan, np.dtype(dtype)))
    assert type(to_dtype(1.0, np.dtype(dtype))) is dtype


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_axis(rank: int) -> None:
    """Every integer in [-rank, rank), of any kind, counted from the front."""
    for axis in range(-rank, rank):
        for kind in (int, np.int8, np.int64, np.uint8, np.array):
            if axis >= 0 or kind is not np.uint8:
                got = as_axis(kind(axis), "axis", rank)
                assert type(got) is int
                assert got == axis % rank
    for axis in (-rank - 1, rank, 10**30, np.int64(rank)):
        with pytest.raises(ValueError, match=f"axis must be in .*-{rank}, {rank}.*got {axis}"):
            as_axis(axis, "axis", rank)


@pytest.mark.parametrize("axis", [True, np.False_, "1", 1.0, F32(1), None, [1], np.array(1.0)])
def test_axis_of_a_wrong_kind(axis: Any) -> None:
    """Nothing but integers; bools are none."""
    with pytest.raises(TypeError, match="dim must be an integer, got"):
        as_axis(axis, "dim", 3)
