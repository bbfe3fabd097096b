"""How far results are from the truth, in units of the last place, over many kinds of rows.

The truth is the oracle's: float64 for what is computed in float32, the 80-bit long double (64 bits
of precision, errors of some 1e-19) for what is computed in float64.

A loss is allowed LOSS_ULP units times max(1, kappa). kappa is the relative condition number of the
loss in the logits, sum_j |d_j dL/dz_j| / |L| with d_j = z_j - max z: each d_j is rounded to the
compute type once, and kappa says by how much these relative errors of half a unit grow. It is
measured from the maximum because the subtraction of the maximum is exact or rounded in relation to
its result, never to the logits: an offset of a million costs nothing. kappa is near 1 except
where a confident row has a small loss.

`python tests/test_accuracy.py` prints the worst errors found, by kind of row.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import oracle
import pytest

import numba_xent as xent

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
LOSS_ULP = {F32: 2.0, F64: 4.0}
KAPPA = {F32: 104, F64: 746}
GRADIENT = {F32: 1e-7, F64: 4e-16}
CLASSES = (1, 2, 3, 10, 37, 100, 1000, 4097, 50_000, 1_000_000)
needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than double here"
)


# --- kinds of rows


def scaled(scale: float) -> Callable[[np.random.Generator, int, int], np.ndarray]:
    """Normal logits of a scale."""
    return lambda rng, rows, n: rng.standard_normal((rows, n)) * scale


def moved(offset: float) -> Callable[[np.random.Generator, int, int], np.ndarray]:
    """Normal logits around an offset."""
    return lambda rng, rows, n: rng.standard_normal((rows, n)) + offset


def ordered(step: int) -> Callable[[np.random.Generator, int, int], np.ndarray]:
    """Sorted logits, upwards or downwards: the maximum comes last or first."""
    return lambda rng, rows, n: np.sort(rng.standard_normal((rows, n)) * 5, axis=1)[:, ::step]


def confident(lead: float) -> Callable[[np.random.Generator, int, int], np.ndarray]:
    """One logit leads the others."""

    def logits(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
        z = rng.standard_normal((rows, n))
        z[np.arange(rows), rng.integers(0, n, rows)] += lead + np.log(n)
        return z

    return logits


def constant(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """All classes equal."""
    return np.broadcast_to(rng.standard_normal((rows, 1)) * 100, (rows, n)).copy()


def masked(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """Most classes impossible."""
    z = rng.standard_normal((rows, n)) * 3
    hidden = rng.random((rows, n)) < 0.7
    hidden[:, n // 2] = False
    z[hidden] = -np.inf
    return z


def outlier(rng: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """One class far below."""
    z = rng.standard_normal((rows, n))
    z[:, -1] -= 80
    return z


KINDS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    **{f"scale {s:g}": scaled(s) for s in (1e-3, 1, 10, 100, 1e4, 1e6, 1e20, 1e37)},
    **{f"offset {s:g}": moved(s) for s in (1e6, -1e6, 300, -30_000)},
    **{f"lead {s:g}": confident(s) for s in (2, 5, 10, 15, 30, 80)},
    "sorted": ordered(1),
    "reversed": ordered(-1),
    "constant": constant,
    "masked": masked,
    "outlier": outlier,
}
LABELS = ("one-hot", "top", "soft", "smoothed", "sparse", "sparse top")


@dataclass(frozen=True)
class Finding:
    """The worst error of a loss, in ulp divided by max(1, kappa), or of a gradient, absolute."""

    loss: float = 0.0
    plain_ulp: float = 0.0
    gradient: float = 0.0


def rows_for(n: int) -> int:
    """Enough rows to be telling, few enough to be quick."""
    return int(np.clip(60_000 // n, 2, 400))


def problem(kind: str, labels: str, n: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Labels (class numbers for sparse ones) and logits, the same in every run."""
    rng = np.random.default_rng(zlib.crc32(f"{kind} {labels} {n}".encode()))
    rows = rows_for(n)
    logits = KINDS[kind](rng, rows, n).astype(dtype)
    classes = logits.argmax(1) if "top" in labels else rng.integers(0, n, rows)
    if kind == "masked" and "top" not in labels:
        classes = np.full(rows, n // 2)
    if "sparse" in labels:
        return classes, logits
    if labels == "soft":
        dense = rng.exponential(size=(rows, n)) * np.isfinite(logits)
        return (dense / dense.sum(1, keepdims=True)).astype(dtype), logits
    return oracle.one_hot(classes, n).astype(dtype), logits


def measure(kind: str, labels: str, n: int, dtype: np.dtype) -> Finding:
    """Run one problem through the library and compare it with the truth."""
    y, z = problem(kind, labels, n, dtype)
    if "sparse" in labels:
        value, grad = xent.value_and_grad(xent.nn.sparse_softmax_cross_entropy_with_logits)(
            labels=y, logits=z
        )
        want = oracle.sparse(y, z)
        dense = oracle.one_hot(y, n)
    elif labels == "smoothed":
        args = {"label_smoothing": 0.1, "reduction": oracle.NONE}
        value, grad = xent.value_and_grad(xent.losses.softmax_cross_entropy)(y, z, **args)
        want = oracle.softmax_loss(y, z, **args)
        dense = oracle.smooth(oracle.wide(y, dtype), 0.1)
    else:
        value, grad = xent.value_and_grad(xent.nn.softmax_cross_entropy_with_logits_v2)(y, z)
        want = oracle.dense(y, z)
        dense = y
    assert (value.dtype, grad.dtype) == (dtype, dtype)
    error = oracle.error_in_ulp(value, want.value, dtype)
    kappa = condition(dense, z)
    return Finding(
        float((error / kappa).max()),
        float(error.max()),
        float(np.abs(grad - want.grads["logits"]).max()),
    )


def condition(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """kappa, at least 1; 1 too where the loss is 0, so that an answer of 0 is due.

    A class further from the maximum than KAPPA has no probability left in the type, and a loss
    that consists of such classes alone is 0 in it: no larger kappa excuses anything.
    """
    with np.errstate(invalid="ignore"):
        kappa = oracle.condition(labels, logits)
    kappa = np.where(np.isnan(kappa), 1, kappa)
    return np.clip(kappa, 1, KAPPA[logits.dtype]).astype(np.float64)


def combinations(dtype: np.dtype) -> list[tuple[str, str, int]]:
    """Every kind of logits and labels with most counts of classes.

    A million classes only with some, and the slow long double with fewer.
    """
    found = []
    for i, kind in enumerate(KINDS):
        for j, labels in enumerate(LABELS):
            for k, n in enumerate(CLASSES):
                if dtype == F64 and (i + j + k) % 3:
                    continue
                if n > 50_000 and (i + j) % (24 if dtype == F64 else 6):
                    continue
                found.append((kind, labels, n))
    return found


def worst_errors(dtype: np.dtype) -> dict[str, tuple[Finding, dict[str, str]]]:
    """The worst of each kind of logits, and where it was found."""
    worst: dict[str, tuple[Finding, dict[str, str]]] = {}
    for kind, labels, n in combinations(dtype):
        one = measure(kind, labels, n, dtype)
        best, where = worst.get(kind, (Finding(), {}))
        for name in ("loss", "plain_ulp", "gradient"):
            if getattr(one, name) > getattr(best, name):
                best = replace(best, **{name: getattr(one, name)})
                where = where | {name: f"{labels}, {n} classes"}
        worst[kind] = best, where
    return worst


def report() -> None:
    """Print a table for each compute type."""
    for dtype in (F32, F64):
        print(f"{dtype.name}: loss in ulp / max(1, kappa), loss in ulp, gradient (absolute)")
        for kind, (found, where) in worst_errors(dtype).items():
            cells = (
                f"{getattr(found, name):10.3g} ({where.get(name, '-')})"
                for name in ("loss", "plain_ulp", "gradient")
            )
            print(f"  {kind:16}", *(f"{cell:40}" for cell in cells))


# --- the claims


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [F32, pytest.param(F64, marks=needs_long_double)], ids=str)
def test_errors(dtype: np.dtype, kind: str, record_property: Callable[[str, object], None]) -> None:
    """Loss and gradient stay within the claims for all labels and class counts."""
    for _, labels, n in (c for c in combinations(dtype) if c[0] == kind):
        found = measure(kind, labels, n, dtype)
        record_property(f"{labels} {n}", repr(found))
        assert found.loss <= LOSS_ULP[dtype], (labels, n)
        assert found.gradient <= GRADIENT[dtype], (labels, n)


@pytest.mark.parametrize("n", CLASSES)
@pytest.mark.parametrize("half", oracle.HALVES, ids=str)
def test_halves_are_float32_rounded_once(half: np.dtype, n: int) -> None:
    """A half problem is the float32 problem with the same numbers, rounded at the end."""
    for kind in ("scale 1", "scale 100", "lead 5", "sorted", "masked", "constant"):
        for labels in LABELS:
            y, z = problem(kind, labels, n, half)
            assert z.dtype == half
            upstream = np.linspace(-2, 2, len(z)).astype(half)
            calls = call(labels, y, z, upstream)
            wide = y if "sparse" in labels else y.astype(np.float32)
            same = call(labels, wide, z.astype(np.float32), upstream.astype(np.float32))
            for got, want in zip(calls, same, strict=True):
                assert (got.dtype, want.dtype) == (half, F32)
                np.testing.assert_array_equal(
                    got.view(np.uint16), want.astype(half).view(np.uint16), f"{kind} {labels}"
                )
            if labels != "smoothed":
                # The value alone has a kernel of its own.
                value = function_for(labels)(labels=y, logits=z)
                np.testing.assert_array_equal(value, calls[0], f"{kind} {labels}")


def function_for(labels: str) -> Callable[..., Any]:
    """The function that takes this kind of labels, unsmoothed."""
    if "sparse" in labels:
        return xent.nn.sparse_softmax_cross_entropy_with_logits
    return xent.nn.softmax_cross_entropy_with_logits_v2


def call(labels: str, y: np.ndarray, z: np.ndarray, upstream: np.ndarray) -> tuple[Any, Any]:
    """Value and gradient from the function for this kind of labels."""
    if labels == "smoothed":
        args = {"label_smoothing": 0.1, "reduction": oracle.NONE, "upstream": upstream}
        return xent.value_and_grad(xent.losses.softmax_cross_entropy)(y, z, **args)
    return xent.value_and_grad(function_for(labels))(labels=y, logits=z, upstream=upstream)


if __name__ == "__main__":
    report()
