"""Compiled on SIMD registers, the formulas give the bits that they give as plain Python."""

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest
from numba.extending import register_jitable

from numba_xent._cpu.intrinsics import bits_register, load, pointer, size_of, store, zeros
from numba_xent._math import cross_entropy, half
from numba_xent._math.compensated import two_product, two_sum
from numba_xent._math.cross_entropy import State
from numba_xent._math.exponential import exp, exp_scaled, log_of_float32_sum, log_of_sum

F32, F64 = np.float32, np.float64
LANES = {F32: 16, F64: 8}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Machine arithmetic does not warn."""
    with np.errstate(all="ignore"):
        yield


def on_registers(step: Callable, kind: type) -> Callable[[np.ndarray, int, Any], np.ndarray]:
    """Compile `step`, which reads registers from one address and writes to another.

    The function returned takes a table with a row for each operand, how many rows of results there
    are, and their dtype.
    """
    compute = np.dtype(kind).name
    lanes = LANES[kind]

    @numba.njit(error_model="numpy")
    def loop(source: np.ndarray, target: np.ndarray) -> None:
        zero = zeros(compute, 1)
        for i in range(source.shape[0]):
            step(
                pointer(source.ctypes.data) + i * source.strides[0],
                pointer(target.ctypes.data) + i * target.strides[0],
                zero,
            )

    def run(operands: np.ndarray, results: int, dtype: Any = kind) -> np.ndarray:
        rows, n = operands.shape
        padded = np.zeros((rows, -(-n // lanes) * lanes), operands.dtype)
        padded[:, :n] = operands
        source = padded.reshape(rows, -1, lanes).transpose(1, 0, 2).copy()
        target = np.zeros((source.shape[0], results, lanes), dtype)
        loop(source, target)
        return target.transpose(1, 0, 2).reshape(results, -1)[:, :n]

    return run


def in_python(function: Callable, operands: np.ndarray, dtype: Any) -> np.ndarray:
    """The same, one number after the other."""
    results = [function(*column) for column in operands.T]
    rows = [result if isinstance(result, tuple) else (result,) for result in results]
    return np.array(rows, dtype).T


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    """All bits are equal, but one NaN is as good as another."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    same = (
        got == want
        if got.dtype.kind == "i"
        else got.view(f"i{got.itemsize}") == want.view(f"i{want.itemsize}")
    )
    if got.dtype.kind == "f":
        same |= np.isnan(got) & np.isnan(want)
    wrong = np.argwhere(~same)
    assert not len(wrong), f"{len(wrong)} of {same.size} differ, first at {wrong[0]}"


def special(kind: type) -> list[float]:
    """Numbers that are often treated wrongly."""
    info = np.finfo(kind)
    return [0.0, -0.0, -1.0, -np.inf, np.nan, info.min, -info.tiny, -info.smallest_subnormal]


@pytest.mark.parametrize("kind", [F32, F64])
def test_exp(kind: type) -> None:
    """From 0 to far below the cutoff."""
    depth = {F32: 110, F64: 750}[kind]
    d = np.concatenate([special(kind), -np.random.default_rng(0).uniform(0, depth, 4000)])
    operands = d.astype(kind)[None]

    @register_jitable
    def step(source: Any, target: Any, zero: Any) -> None:
        d = load(source, zero)
        store(target, exp_scaled(d))
        store(target + size_of(zero), exp(d))

    want = in_python(lambda d: (exp_scaled(d), exp(d)), operands, kind)
    assert_same_bits(on_registers(step, kind)(operands, 2), want)


@pytest.mark.parametrize("kind", [F32, F64])
def test_compensated(kind: type) -> None:
    """Sums and products and what they lose."""
    rng = np.random.default_rng(1)
    operands = (rng.normal(size=(2, 3000)) * 10.0 ** rng.integers(-9, 9, (2, 3000))).astype(kind)
    operands[:, :8] = [special(kind), special(kind)[::-1]]

    @register_jitable
    def step(source: Any, target: Any, zero: Any) -> None:
        a, b = load(source, zero), load(source + size_of(zero), zero)
        total, lost = two_sum(a, b)
        store(target, total)
        store(target + size_of(zero), lost)
        product, lost = two_product(a, b)
        store(target + 2 * size_of(zero), product)
        store(target + 3 * size_of(zero), lost)

    want = in_python(lambda a, b: (*two_sum(a, b), *two_product(a, b)), operands, kind)
    assert_same_bits(on_registers(step, kind)(operands, 4), want)


def test_log_of_sum() -> None:
    """For counts and rests of every size."""
    rng = np.random.default_rng(2)
    operands = np.stack(
        [
            rng.choice([1.0, 1, 1, 2, 3, 1000], 4000),
            np.exp(rng.uniform(-700, 14, 4000)),
            np.zeros(4000),
        ]
    )
    operands[1, :2] = 0, 1
    operands[2] = operands[1] * 2.0**-54 * rng.uniform(-1, 1, 4000)

    @register_jitable
    def step(source: Any, target: Any, zero: Any) -> None:
        count, rest = load(source, zero), load(source + size_of(zero), zero)
        store(target, log_of_sum(count, rest, load(source + 2 * size_of(zero), zero)))

    assert_same_bits(on_registers(step, F64)(operands, 1), in_python(log_of_sum, operands, F64))

    @register_jitable
    def roughly(source: Any, target: Any, zero: Any) -> None:
        count, rest = load(source, zero), load(source + size_of(zero), zero)
        store(target, log_of_float32_sum(count, rest))

    want = in_python(log_of_float32_sum, operands[:2], F64)
    assert_same_bits(on_registers(roughly, F64)(operands[:2], 1), want)


def states(rng: np.random.Generator, n: int) -> np.ndarray:
    """Random states, a column each; some of no class, some with infinite sums."""
    columns = np.stack(
        [
            rng.normal(size=n) * 30,
            rng.choice([0.0, 1, 1, 2], n),
            rng.exponential(size=n),
            rng.normal(size=n) * 1e-17,
            rng.normal(size=n) * 10,
            rng.normal(size=n) * 1e-16,
            rng.choice([0.0, 1, 0.3, -1], n),
            rng.normal(size=n) * 1e-17,
            -rng.exponential(size=n) * 100,
            rng.normal(size=n) * 1e-15,
            rng.integers(0, 5, n).astype(F64),
        ]
    )
    columns[0, :5] = np.finfo(F64).min, -1e308, 1e308, np.inf, np.nan
    columns[4, 5:8] = -np.inf, np.nan, 0
    return columns


def test_merge_and_finish() -> None:
    """The whole state, and the loss that it comes to."""
    rng = np.random.default_rng(3)
    operands = np.concatenate([states(rng, 1500), np.roll(states(rng, 1500), 3, axis=1)])

    @register_jitable
    def read(source: int, zero: Any) -> State:
        n = size_of(zero)
        return State(
            load(source, zero),
            load(source + n, zero),
            load(source + 2 * n, zero),
            load(source + 3 * n, zero),
            load(source + 4 * n, zero),
            load(source + 5 * n, zero),
            load(source + 6 * n, zero),
            load(source + 7 * n, zero),
            load(source + 8 * n, zero),
            load(source + 9 * n, zero),
            load(source + 10 * n, zero),
        )

    @register_jitable
    def step(source: Any, target: Any, zero: Any) -> None:
        n = size_of(zero)
        s = cross_entropy.merge(read(source, zero), read(source + 11 * n, zero))
        row = cross_entropy.finish(s)
        store(target, s.top)
        store(target + n, s.count)
        store(target + 2 * n, s.rest)
        store(target + 3 * n, s.rest_low)
        store(target + 4 * n, s.dot)
        store(target + 5 * n, s.dot_low)
        store(target + 6 * n, s.mass)
        store(target + 7 * n, s.mass_low)
        store(target + 8 * n, s.drop)
        store(target + 9 * n, s.drop_low)
        store(target + 10 * n, s.size)
        store(target + 11 * n, row.log_sum)
        store(target + 12 * n, row.inverse)
        store(target + 13 * n, cross_entropy.dense_loss(s, row, 1.0, 0.0))
        store(target + 14 * n, cross_entropy.dense_loss(s, row, 0.9, 0.01))

    def python(*numbers: Any) -> tuple[Any, ...]:
        s = cross_entropy.merge(State(*numbers[:11]), State(*numbers[11:]))
        row = cross_entropy.finish(s)
        losses = (cross_entropy.dense_loss(s, row, *smooth) for smooth in ((1.0, 0.0), (0.9, 0.01)))
        return (*s, row.log_sum, row.inverse, *losses)

    assert_same_bits(on_registers(step, F64)(operands, 15), in_python(python, operands, F64))


HALVES = {
    np.float16: (half.float16_to_float, half.float_to_float16),
    ml_dtypes.bfloat16: (half.bfloat16_to_float, half.float_to_bfloat16),
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", [F32, F64])
def test_halves_to_float(dtype: Any, kind: type) -> None:
    """Every bit pattern, for as many lanes as either compute dtype has."""
    to_float, _ = HALVES[dtype]
    patterns = np.arange(1 << 16, dtype=np.int32)

    @register_jitable
    def step(source: Any, target: Any, zero: Any) -> None:
        store(target, to_float(load(source, bits_register(zero))))

    (got,) = on_registers(step, kind)(patterns[None], 1, F32)
    assert_same_bits(got, patterns.astype(np.uint16).view(dtype).astype(F32))
    sample = np.append(patterns[::13], [0x7C00, 0xFC00, 0x7F80, 0xFF80, 0x7FFF, 0x8000, 0x8001])
    want = in_python(to_float, sample[None].astype(np.int32), F32)[0]
    assert_same_bits(got[sample], want)


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_from_float(dtype: Any) -> None:
    """A million bit patterns of float32, and all that are halves or lie between two."""
    _, from_float = HALVES[dtype]
    rng = np.random.default_rng(4)
    halves = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(F32)
    with_ties = halves.view(np.int32)[:, None] + np.array([0, 1, -1, 0x1000, 0x1001, 0xFFF, 0x8000])
    x = np.concatenate(
        [
            with_ties.astype(np.int32).ravel().view(F32),
            rng.integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(F32),
        ]
    )

    @register_jitable
    def step(source: Any, target: Any, zero: Any) -> None:
        store(target, from_float(load(source, zero)))

    (got,) = on_registers(step, F32)(x[None], 1, np.int32)
    want = x.astype(dtype)
    rounded = got.astype(np.uint16).view(dtype)
    nan = np.isnan(x)
    assert np.array_equal(np.isnan(rounded), nan)
    assert np.array_equal(np.signbit(rounded), np.signbit(want))
    assert np.array_equal(rounded.view(np.uint16)[~nan], want.view(np.uint16)[~nan])
    sample = x[::199]
    assert_same_bits(got[::199], in_python(from_float, sample[None], np.int32)[0])
