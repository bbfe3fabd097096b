"""The formulas as plain Python on NumPy scalars, against wider types and exact fractions."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from numba_xent._math import cross_entropy, half
from numba_xent._math.compensated import (
    accumulate,
    add_pairs,
    low_part,
    scale_pair,
    total_of,
    two_product,
    two_sum,
)
from numba_xent._math.constants import FLOAT32, FLOAT64, constants
from numba_xent._math.cross_entropy import State
from numba_xent._math.exponential import exp, exp_scaled, log_of_float32_sum, log_of_sum
from numba_xent._math.primitives import bits, fma, from_bits, maximum, to_float, where, widen

F32, F64 = np.float32, np.float64
KINDS = {F32: FLOAT32, F64: FLOAT64}
NAN, INF = F64(np.nan), F64(np.inf)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Machine arithmetic does not warn."""
    with np.errstate(all="ignore"):
        yield


def ulps(got: Any, want: Any, kind: type) -> Any:
    """The distance from a value in a wider type, in units in the last place of `kind`."""
    size = np.spacing(np.abs(np.asarray(want)).astype(kind)).astype(np.longdouble)
    return np.abs(np.asarray(got).astype(np.longdouble) - want) / size


def each(function: Callable, values: np.ndarray) -> np.ndarray:
    """A function of scalars, called one by one."""
    return np.array([function(value) for value in values])


# --- primitives


@pytest.mark.parametrize("kind", KINDS)
def test_fma_rounds_once(kind: type) -> None:
    """As exact fractions do, rounded at the end."""
    rng = np.random.default_rng(0)
    tie = 1 / F64(2) ** np.finfo(kind).nmant / 2
    cases = [
        (F64(1) + 2 * tie, F64(1) + 2 * tie, -(F64(1) + 4 * tie)),
        (97, 172961 / 2**24, 2**-80),
    ]
    cases += [
        (*rng.normal(size=2), rng.normal() * s) for s in (1, 1e-8, 1e8, 1e-16) for _ in "ab" * 50
    ]
    for a, b, c in (tuple(map(kind, case)) for case in cases):
        want = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        got = fma(a, b, c)
        assert type(got) is kind
        assert nearest(got, want, kind)
        product = a * b
        exact = Fraction(float(a)) * Fraction(float(b)) - Fraction(float(product))
        assert Fraction(float(fma(a, b, -product))) == exact


def nearest(got: Any, want: Fraction, kind: type) -> bool:
    """Whether no other number of the type is nearer, with ties to even."""
    error = abs(Fraction(float(got)) - want)
    others = [np.nextafter(got, kind(side)) for side in (-np.inf, np.inf)]
    errors = [abs(Fraction(float(other)) - want) for other in others]
    if error in errors:
        return int(bits(got)) % 2 == 0
    return error < min(errors)


@pytest.mark.parametrize("kind", KINDS)
def test_fma_of_special_values(kind: type) -> None:
    """Infinities and NaN as IEEE 754 has them, in the dtype of the operands."""
    inf, nan, one, zero = (kind(x) for x in (np.inf, np.nan, 1, 0))
    for args, want in [
        ((inf, one, one), inf),
        ((inf, -one, one), -inf),
        ((one, one, -inf), -inf),
        ((inf, zero, one), nan),
        ((inf, one, -inf), nan),
        ((nan, zero, zero), nan),
        ((one, one, nan), nan),
        ((kind(np.finfo(kind).max), kind(2), zero), inf),
    ]:
        got = fma(*args)
        assert type(got) is kind
        assert np.array_equal(got, want, equal_nan=True)


def test_small_primitives() -> None:
    """What the backends replace by one instruction each."""
    assert where(True, 1, 2) == 1
    assert where(np.False_, 1, 2) == 2
    assert maximum(F32(1), F32(2)) == 2
    assert np.isnan(maximum(F32(np.nan), F32(2)))
    assert np.isnan(maximum(F32(2), F32(np.nan)))
    assert maximum(F64(-np.inf), F64(-1)) == -1
    for kind, integer in ((F32, np.int32), (F64, np.int64)):
        for value in (0.0, -0.0, 1.5, -np.inf, np.finfo(kind).smallest_subnormal):
            pattern = bits(kind(value))
            assert type(pattern) is integer
            assert from_bits(pattern).tobytes() == kind(value).tobytes()
        assert type(to_float(integer(-7))) is kind
        assert to_float(integer(-7)) == -7
    assert type(widen(F32(0.1))) is F64
    assert widen(F32(0.1)) == F32(0.1)
    assert constants(F32(0)) is FLOAT32
    assert constants(F64(0)) is FLOAT64


# --- compensated sums


def exact(*parts: Any) -> Fraction:
    """The sum of numbers without rounding."""
    return sum((Fraction(float(part)) for part in parts), Fraction(0))


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_lose_nothing(kind: type) -> None:
    """A sum or product and what its rounding lost are the whole truth."""
    rng = np.random.default_rng(1)
    for scale in (1, 1e-5, 1e5, 1e-12):
        for _ in range(50):
            a, b = kind(rng.normal()), kind(rng.normal() * scale)
            total, lost = two_sum(a, b)
            assert total == a + b
            assert exact(total, lost) == exact(a, b)
            product, lost = two_product(a, b)
            assert product == a * b
            assert exact(product, lost) == exact(a) * exact(b)
            assert type(total) is type(lost) is kind


def test_long_sums_are_exact() -> None:
    """Terms that a plain sum would lose, added one by one, and in pairs of pairs."""
    rng = np.random.default_rng(2)
    terms = (rng.normal(size=5000) * 10.0 ** rng.integers(-12, 8, 5000)).astype(F32)
    want = math.fsum(terms.astype(F64))
    high, low = F32(0), F32(0)
    for term in terms:
        high, low = accumulate(high, low, term)
    assert ulps(total_of(high, low), want, F32) <= 1
    assert ulps(np.cumsum(terms, dtype=F32)[-1], want, F32) > 1
    pairs = [(term, F32(0)) for term in terms[:4096]]
    while len(pairs) > 1:
        pairs = [add_pairs(*a, *b) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    assert ulps(total_of(*pairs[0]), math.fsum(terms[:4096].astype(F64)), F32) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_pairs(kind: type) -> None:
    """A pair keeps about twice the digits when it is multiplied."""
    rng = np.random.default_rng(3)
    eps = Fraction(float(np.finfo(kind).eps))
    for _ in range(100):
        high = kind(rng.normal())
        low = kind(high * np.finfo(kind).eps * rng.uniform(-0.5, 0.5))
        factor = kind(rng.uniform())
        want = exact(high, low) * exact(factor)
        assert abs(exact(*scale_pair(high, low, factor)) - want) <= 2 * eps**2 * abs(want)


def test_low_parts_of_special_values() -> None:
    """If the high part is not finite, the low part is nothing, whatever it holds."""
    assert low_part(F64(1), F64(1e-20)) == 1e-20
    for high in (INF, -INF, NAN):
        for low in (F64(1), INF, NAN):
            assert low_part(high, low) == 0
            assert np.array_equal(total_of(high, low), high, equal_nan=True)
    assert np.isposinf(total_of(*accumulate(INF, F64(0), F64(1))))


# --- exp and log


@pytest.mark.parametrize("kind", KINDS)
def test_exp(kind: type) -> None:
    """Within 1 ulp from 0 to the cutoff, and in the scaled form where the result is subnormal."""
    c = KINDS[kind]
    rng = np.random.default_rng(4)
    d = np.concatenate(
        [
            -rng.uniform(0, float(-c.exp_cutoff), 3000),
            -np.exp(rng.uniform(-40, 6, 1000)),
            -math.log(2) * (np.arange(140) + 0.5),
            -math.log(2) * np.arange(140),
        ]
    ).astype(kind)
    d = d[d >= c.exp_cutoff]
    scaled = each(exp_scaled, d)
    assert scaled.dtype == kind
    want = np.exp(d.astype(np.longdouble))
    assert ulps(scaled, want * np.longdouble(c.scale_up), kind).max() <= 1
    got = each(exp, d)
    normal = want >= np.finfo(kind).smallest_normal
    assert ulps(got, want, kind)[normal].max() <= 1
    # A subnormal result is the scaled one, rounded once more.
    assert (~normal).sum() > 50
    assert np.abs(got - want)[~normal].max() <= 0.51 * np.finfo(kind).smallest_subnormal


@pytest.mark.parametrize("kind", KINDS)
def test_exp_of_special_values(kind: type) -> None:
    """Exactly 1 at 0; exactly 0 for what is masked, too small or NaN."""
    c = KINDS[kind]
    for zero in (kind(0.0), kind(-0.0)):
        assert exp(zero) == 1
        assert exp_scaled(zero) == c.scale_up
    assert exp(np.nextafter(kind(0), kind(-1))) == 1
    low = np.finfo(kind).min
    for d in (-np.inf, np.nan, low, np.nextafter(c.exp_cutoff, low), -1e30):
        assert exp_scaled(kind(d)).tobytes() == kind(0).tobytes()
        assert exp(kind(d)).tobytes() == kind(0).tobytes()
    # The cutoff loses no result that is not 0.
    tiny = np.finfo(kind).smallest_subnormal
    assert np.exp(np.longdouble(c.exp_cutoff)) < np.longdouble(tiny) / 2
    assert exp(kind(math.log(float(tiny)))) == tiny


def test_log_of_sum() -> None:
    """Within 1 ulp of a wider type, most of all near 1, where the sum itself rounds."""
    rng = np.random.default_rng(5)
    rests = np.concatenate(
        [
            np.exp(rng.uniform(-700, 14, 2000)),
            rng.uniform(0, 3, 1000),
            [0, 5e-324, 1e-300, 2**-54, 2**-53, 2**-52, 0.5, 1, 1e6],
        ]
    )
    for count in (1, 2, 3, 1000, 2**20):
        for rest in rests[:: 1 if count == 1 else 10]:
            low = rest * 2.0**-54 * rng.uniform(-1, 1)
            got = log_of_sum(F64(count), F64(rest), F64(low))
            small = np.longdouble(rest) + np.longdouble(low)
            want = np.log1p(small) if count == 1 else np.log(np.longdouble(count) + small)
            assert type(got) is F64
            assert ulps(got, want, F64) <= 1, (count, rest, low)
    assert log_of_sum(F64(1), F64(0), F64(0)).tobytes() == F64(0).tobytes()


def test_log_of_float32_sum() -> None:
    """Within ``2**-31``, most of all near 1, where the sum itself rounds; exact for 1."""
    rng = np.random.default_rng(6)
    rests = np.concatenate(
        [
            np.exp(rng.uniform(-104, 14, 2000)),
            rng.uniform(0, 3, 2000),
            [2**-150, 2**-54, 2**-53, 2**-24, 2**0.5 - 1, 0.5, 1, 1e6],
        ]
    )
    for count in (1, 2, 3, 1000, 2**20):
        got = np.array([log_of_float32_sum(F64(count), F64(rest)) for rest in rests])
        small = rests.astype(np.longdouble)
        want = np.log1p(small) if count == 1 else np.log(count + small)
        assert np.all(np.abs(got - want) <= 2.0**-31 * want)
    assert log_of_float32_sum(F64(1), F64(0)).tobytes() == F64(0).tobytes()


# --- halves

ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)


def test_float16_to_float() -> None:
    """Every bit pattern; NaN stays NaN with its sign."""
    got = each(half.float16_to_float, ALL_HALVES.astype(np.int32))
    same_floats(got, ALL_HALVES.view(np.float16).astype(F32))


def test_bfloat16_to_float() -> None:
    """Every bit pattern; NaN stays NaN with its sign."""
    got = each(half.bfloat16_to_float, ALL_HALVES.astype(np.int32))
    same_floats(got, ALL_HALVES.view(ml_dtypes.bfloat16).astype(F32))


def same_floats(got: np.ndarray, want: np.ndarray) -> None:
    """Assert equal bits, but for the payload of NaN."""
    assert got.dtype == want.dtype
    integer = {4: np.uint32, 2: np.uint16}[got.itemsize]
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(np.signbit(got), np.signbit(want))
    assert np.array_equal(got[~nan].view(integer), want[~nan].view(integer))


def neighbourhood(dtype: Any) -> np.ndarray:
    """Every half, the middle between any two neighbours, and the floats beside those."""
    positive = np.arange(np.array(np.inf, dtype).view(np.uint16) + 1, dtype=np.uint16)
    values = positive.view(dtype).astype(F64)
    # Beyond the largest half lies what would be the next one.
    values[-1] = 2 * values[-2] - values[-3]
    middles = ((values[1:] + values[:-1]) / 2).astype(F32)
    points = np.concatenate([values.astype(F32), middles])
    points = np.concatenate(
        [points, np.nextafter(points, F32(0)), np.nextafter(points, F32(np.inf))]
    )
    return np.concatenate([points, -points])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_float_to_half(dtype: Any) -> None:
    """Ties to even, overflow to infinity, gradual underflow: as NumPy rounds."""
    function = half.float_to_float16 if dtype is np.float16 else half.float_to_bfloat16
    rng = np.random.default_rng(6)
    anything = rng.integers(0, 1 << 32, 20_000, dtype=np.uint32).view(F32)
    special = np.array(
        [0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.996, 65520, 3.4e38, 1e-45], F32
    )
    points = neighbourhood(dtype)
    for x in (special, points[rng.integers(0, 7) :: 7], anything):
        got = each(function, x).astype(np.uint16).view(dtype)
        want = x.astype(dtype)
        same_floats(got, want)


def test_halves_there_and_back() -> None:
    """No half changes on its way through float32."""
    for to_float32, from_float32, dtype in [
        (half.float16_to_float, half.float_to_float16, np.float16),
        (half.bfloat16_to_float, half.float_to_bfloat16, ml_dtypes.bfloat16),
    ]:
        patterns = ALL_HALVES[~np.isnan(ALL_HALVES.view(dtype))][::5]
        floats = each(to_float32, patterns.astype(np.int32))
        assert np.array_equal(each(from_float32, floats).astype(np.uint16), patterns)


# --- states of rows


def state_of(z: np.ndarray, labels: np.ndarray) -> State:
    """The state of some classes, as a chunk of a row makes it, in float64."""
    c = FLOAT64
    top = c.lowest
    for value in z:
        top = maximum(top, value)
    count = rest = dot = mass = drop = c.zero
    left = F64(len(z))
    scale = c.scale_down
    for value, label in zip(z, labels, strict=True):
        d, e = cross_entropy.exp_of_class(value, top)
        below = cross_entropy.is_below(d)
        rest = rest + cross_entropy.exp_of_rest(below, e)
        count = cross_entropy.count_top(below, count)
        left = cross_entropy.drop_below(below, left)
        dot, mass = cross_entropy.add_label(d, label, dot, mass)
        drop = cross_entropy.add_drop(d, True, scale, drop)
    assert left == count
    assert cross_entropy.add_drop(F64(-np.inf), False, scale, drop) is drop
    zero = c.zero
    return State(
        top=top,
        count=count,
        rest=rest * c.scale_down,
        rest_low=zero,
        dot=dot,
        dot_low=zero,
        mass=mass,
        mass_low=zero,
        drop=drop * c.scale_up,
        drop_low=zero,
        size=F64(len(z)),
    )


def loss_of(state: State, smoothing: float = 0) -> Any:
    """The loss of a whole row."""
    keep, uniform = F64(1 - smoothing), F64(smoothing) / state.size
    return cross_entropy.dense_loss(state, cross_entropy.finish(state), keep, uniform)


def reference(z: np.ndarray, labels: np.ndarray) -> Any:
    """The loss in the long double."""
    wide = z.astype(np.longdouble)
    d = wide - wide.max()
    at_top = d == 0
    log_sum = np.log1p(at_top.sum() - 1 + np.exp(d[~at_top]).sum())
    terms = np.where(labels == 0, 0, labels * (log_sum - d))
    return terms.sum()


ROWS = [
    (scale, n, labels)
    for scale in (1, 30, 300)
    for n in (1, 2, 5, 40)
    for labels in ("soft", "one-hot", "anything")
]


def row_of(scale: float, n: int, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """A row of logits and labels."""
    rng = np.random.default_rng([int(scale), n])
    z = rng.normal(size=n) * scale
    one_hot = np.eye(n)[rng.integers(n)]
    return z, {"soft": rng.dirichlet(np.ones(n)), "one-hot": one_hot}.get(
        labels, rng.normal(size=n)
    )


@pytest.mark.parametrize(("scale", "n", "labels"), ROWS)
def test_merge_agrees_with_the_whole(scale: float, n: int, labels: str) -> None:
    """However a row is cut and in whatever order its pieces meet."""
    z, l = row_of(scale, n, labels)
    want = reference(z, l)
    size = (np.abs(l).sum() + 1) * (np.ptp(z) + np.log(n) + 1)
    tolerance = 8 * np.finfo(F64).eps * size
    assert abs(loss_of(state_of(z, l)) - want) <= tolerance
    rng = np.random.default_rng(7)
    for _ in range(5):
        cuts = sorted(rng.integers(0, n + 1, 3))
        pieces = [state_of(a, b) for a, b in zip(np.split(z, cuts), np.split(l, cuts), strict=True)]
        rng.shuffle(pieces)
        while len(pieces) > 1:
            i = rng.integers(len(pieces) - 1)
            pieces[i : i + 2] = [cross_entropy.merge(pieces[i], pieces[i + 1])]
        (whole,) = pieces
        assert whole.top == z.max()
        assert whole.count == (z == z.max()).sum()
        assert abs(loss_of(whole) - want) <= tolerance
        for smoothing in (0.1, 1):
            smoothed = l * (1 - smoothing) + smoothing / n
            assert abs(loss_of(whole, smoothing) - reference(z, smoothed)) <= tolerance


def test_merge_is_commutative() -> None:
    """Bit for bit."""
    for scale, n, labels in ROWS:
        z, l = row_of(scale, n, labels)
        a, b = state_of(z[: n // 2], l[: n // 2]), state_of(z[n // 2 :], l[n // 2 :])
        assert cross_entropy.merge(a, b) == cross_entropy.merge(b, a)


def test_nothing_merges_with_anything() -> None:
    """The state of no classes is neutral."""
    z, l = row_of(1, 5, "soft")
    nothing, something = state_of(z[:0], l[:0]), state_of(z, l)
    assert cross_entropy.merge(nothing, something) == something
    assert cross_entropy.merge(nothing, nothing) == nothing


@pytest.mark.parametrize(
    ("z", "labels", "want"),
    [
        ([0, -np.inf], [1, 0], 0),
        ([0, -np.inf], [0.5, 0.5], np.inf),
        ([-np.inf, -np.inf], [1, 0], np.nan),
        ([np.inf, 0], [1, 0], np.nan),
        ([np.inf, 0], [0, 0], np.nan),
        ([np.nan, 0], [0, 1], np.nan),
        ([0, 0], [0, 0], 0),
        ([1000, 0, -1000], [0, 0, 1], 2000),
        ([-1e308, 1e308], [0, 1], 0),
        ([-1e308, 1e308], [1, 0], np.inf),
        ([5, 5, 5, 5], [1, 0, 0, 0], math.log(4)),
    ],
)
def test_special_rows(z: list[float], labels: list[float], want: float) -> None:
    """Whole, and merged from single classes."""
    logits, l = np.array(z, F64), np.array(labels, F64)
    whole = state_of(logits, l)
    merged = state_of(logits[:1], l[:1])
    for i in range(1, len(z)):
        merged = cross_entropy.merge(merged, state_of(logits[i : i + 1], l[i : i + 1]))
    for state in (whole, merged):
        np.testing.assert_allclose(loss_of(state), want, rtol=1e-15)


def test_gradients() -> None:
    """Of a finished row, against the formulas in the long double."""
    z, l = row_of(30, 40, "anything")
    row = cross_entropy.finish(state_of(z, l))
    d = (z - z.max()).astype(np.longdouble)
    s = np.exp(d).sum()
    for i in range(40):
        p = cross_entropy.probability(z[i], row)
        assert ulps(p, np.exp(d[i]) / s, F64) <= 3
        e = exp(z[i] - row.top)
        up = F64(0.7)
        want = np.exp(d[i]) / s
        eps = 4 * np.finfo(F64).eps
        assert (
            abs(cross_entropy.dense_gradient(e, row.inverse, l[i], up) - up * (want - l[i]))
            < eps * 4
        )
        assert abs(cross_entropy.sparse_gradient(e, row.inverse, up) - up * want) < eps
        assert abs(cross_entropy.sparse_label_gradient(p, up) - up * (want - 1)) < eps
        by_label = np.log(s) - d[i]
        assert (
            ulps(cross_entropy.label_gradient(z[i], row.top, row.log_sum, up), up * by_label, F64)
            <= 3
        )
        assert ulps(cross_entropy.sparse_loss(z[i], row), by_label, F64) <= 2
        assert ulps(cross_entropy.class_loss(l[i], z[i], row), l[i] * by_label, F64) <= 3
    assert cross_entropy.class_loss(F64(0), -INF, row) == 0
    assert np.isposinf(cross_entropy.class_loss(F64(0.1), -INF, row))
    assert cross_entropy.smooth(F64(1), F64(0.9), F64(0.025)) == pytest.approx(0.925, rel=1e-15)
    assert cross_entropy.smooth(F64(0.3), F64(1), F64(0)) == 0.3
