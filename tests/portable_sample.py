"""A sample of the other tests that meets every kernel, to be run for another processor.

`python portable_sample.py` runs it for the processor that Numba is told to compile for, prints what
fails, and ends by saying how many checks there were. Tolerances are those of the tests themselves.
"""

import itertools
import traceback
from collections.abc import Callable, Iterator

import numpy as np
import test_accuracy as accuracy
import test_golden as golden
import test_special_values as special
from golden_cases import cases
from oracle import HALVES
from strategies import DTYPES

import numba_xent as xent
from numba_xent._cpu.kernels import solver, solvers

EVERY = 7  # a number that no pattern of the recorded cases repeats with
KINDS = ("scale 1", "scale 1e+06", "lead 15", "masked", "constant")


def checks() -> Iterator[tuple[Callable[..., None], tuple]]:
    """Tests with their arguments."""
    for case in cases()[::EVERY]:
        yield golden.test_value, (case,)
        if golden.differentiable(case):
            yield golden.test_gradient, (case,)
    for case in special.CASES:
        yield special.test_alone, case.values
    for dtype, axis in itertools.product(DTYPES, (0, 1)):
        yield special.test_rows_are_independent, (axis, dtype)
        yield special.test_in_long_rows, (dtype, 2047, axis)
    for n, axis in itertools.product((3, 17, 100), (0, 1)):
        yield special.test_denormal_gradients_are_kept, (n, axis)
    for args in itertools.product((accuracy.F32, accuracy.F64), KINDS, accuracy.LABELS, (10, 1000)):
        yield measured, args
    for args in itertools.product(HALVES, (10, 1000)):
        yield accuracy.test_halves_are_float32_rounded_once, args


def measured(dtype: object, kind: str, labels: str, n: int) -> None:
    """Loss and gradient of random rows, against the oracle."""
    found = accuracy.measure(kind, labels, n, dtype)
    assert found.loss <= accuracy.LOSS_ULP[dtype], found
    assert found.gradient <= accuracy.GRADIENT[dtype], found
    # The value alone has a kernel of its own.
    y, z = accuracy.problem(kind, labels, n, dtype)
    fn = accuracy.function_for(labels)
    value, _ = xent.value_and_grad(fn)(labels=y, logits=z)
    np.testing.assert_array_equal(fn(labels=y, logits=z), value)


def main() -> None:
    """Run everything, whatever fails."""
    failed = total = 0
    for check, args in checks():
        total += 1
        try:
            check(*args)
        except Exception:  # noqa: BLE001 - counted and shown
            failed += 1
            print(f"{check.__module__}.{check.__name__}{args}\n{traceback.format_exc()}")
    met = solver.cache_info().misses
    for dtype in DTYPES:
        compute = "float64" if dtype == np.float64 else "float32"
        for choice in solvers(compute, dtype.name):
            solver(*choice)
    unmet = solver.cache_info().misses - met
    print(f"{total} checks, {failed} failed, {unmet} kernels not met")


if __name__ == "__main__":
    main()
