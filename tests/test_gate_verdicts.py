"""The arithmetic of the gate, and the table that it prints."""

import math
from typing import Any

import numpy as np
import pytest
from gating import report, verdict
from gating.contest import Benchmark, Failure
from gating.verdict import Row, Verdict

FACTOR = 1.15


# --- verdicts


def test_interval_is_that_of_the_binomial_distribution() -> None:
    """The ends are order statistics; too few values have none."""
    values = np.random.default_rng(0).permutation(100).tolist()
    assert verdict.interval(values[:10], 0.999) == (-math.inf, math.inf)
    assert verdict.interval(list(range(11)), 0.999) == (0, 10)
    # A table of sign tests: for 20 values and 95 %, the 6th from either end.
    assert verdict.interval(list(range(20)), 0.95) == (5, 14)
    assert verdict.interval(values, 0.95) == (39, 60)


def test_interval_contains_the_median_as_often_as_it_says() -> None:
    """In samples of a skewed distribution, as often as the binomial distribution of 30 says."""
    rng = np.random.default_rng(1)
    median = math.log(2)
    inside = [
        lower <= median <= upper
        for lower, upper in (verdict.interval(rng.exponential(size=30), 0.9) for _ in range(2000))
    ]
    exact = 1 - 2 * sum(math.comb(30, k) for k in range(11)) / 2**30
    assert exact >= 0.9
    assert abs(np.mean(inside) - exact) < 0.02  # three standard deviations


def a_time(label: str = "steady.A.time_call(x)") -> Benchmark:
    """Return something to time."""
    return Benchmark(label.partition("(")[0], 0, label, "time", "seconds", None, True)


def a_figure(slack: tuple[float, float] = (0.0, 10.0)) -> Benchmark:
    """Return something that is tracked."""
    return Benchmark("figures.B.track_b", 0, "figures.B.track_b", "track", "bytes", slack, True)


def noisy(
    ratio: float, rng: np.random.Generator, launches: int = 6, pairs: int = 25, layout: float = 0.05
) -> list[list[tuple[float, float]]]:
    """Turns on a machine whose speed swings by 2, with spikes, and with luck in each launch."""
    found = []
    for _ in range(launches):
        speed = 2 ** np.clip(np.cumsum(rng.normal(0, 0.2, pairs)), -0.5, 0.5)
        each = 0.001 * speed[:, None] * rng.lognormal(0, 0.05, (pairs, 2))
        each *= np.where(rng.random((pairs, 2)) < 0.1, 10, 1)
        each[:, 1] *= ratio * rng.lognormal(0, layout)
        found.append([(float(a), float(b)) for a, b in each])
    return found


def test_noise_is_no_regression() -> None:
    """None of 300 times of equal code is refused, however the machine swings."""
    rng = np.random.default_rng(2)
    rows = [verdict.judge_time(a_time(), noisy(1.0, rng), FACTOR) for _ in range(300)]
    assert {row.verdict for row in rows} == {Verdict.SAME}


def test_a_regression_is_one_in_spite_of_noise() -> None:
    """Each of 300 times that are 30 % longer is refused, and taken for 30 %."""
    rng = np.random.default_rng(3)
    rows = [verdict.judge_time(a_time(), noisy(1.3, rng), FACTOR) for _ in range(300)]
    assert {row.verdict for row in rows} == {Verdict.SLOWER}
    assert 1.28 < np.median([row.ratio for row in rows]) < 1.32


def test_what_got_faster() -> None:
    """It is told, and passes."""
    row = verdict.judge_time(a_time(), noisy(0.7, np.random.default_rng(4)), FACTOR)
    assert row.verdict is Verdict.FASTER
    assert not row.verdict.is_refused


def turns(*ratios: float, pairs: int = 20) -> list[list[tuple[float, float]]]:
    """Launches of which each has one ratio, but for some scatter."""
    return [[(1.0, ratio * (1 + k / 1000)) for k in range(pairs)] for ratio in ratios]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (turns(1.2, 1.2, 1.2), Verdict.SLOWER),
        (turns(1.1, 1.1, 1.1), Verdict.SAME),  # within the factor
        (turns(*[1.5] * 5, 0.95), Verdict.SAME),  # not in every launch
        (turns(1.2, pairs=5), Verdict.SAME),  # too few to be sure
        (turns(0.8, 0.8, 0.8), Verdict.FASTER),
        (turns(*[0.8] * 5, 1.01), Verdict.SAME),
    ],
)
def test_all_conditions_must_hold(outcome: Any, expected: Verdict) -> None:
    """The factor, the interval and every launch."""
    assert verdict.judge_time(a_time(), outcome, FACTOR).verdict is expected


def test_numbers_of_a_row() -> None:
    """Medians of both sides, and of the ratios of neighbours, not the ratio of medians."""
    outcome = [[(1.0, 2.0), (3.0, 3.0), (8.0, 4.0)]]
    row = verdict.judge_time(a_time(), outcome, FACTOR)
    assert (row.base, row.head, row.ratio) == (3.0, 3.0, 1.0)


@pytest.mark.parametrize(
    ("base", "head", "slack", "expected"),
    [
        (100, 100, (0.0, 0.0), Verdict.SAME),
        (100, 101, (0.0, 0.0), Verdict.WORSE),
        (100, 110, (0.0, 10.0), Verdict.SAME),
        (100, 111, (0.0, 10.0), Verdict.WORSE),
        (100, 89, (0.0, 10.0), Verdict.BETTER),
        (100, 120, (0.1, 10.0), Verdict.SAME),
        (0, 1, (0.5, 0.0), Verdict.WORSE),
        (100, math.nan, (0.0, 10.0), Verdict.WORSE),
        (math.nan, 100, (0.0, 10.0), Verdict.WORSE),
        (math.nan, math.nan, (0.0, 10.0), Verdict.SAME),
    ],
)
def test_figures(base: float, head: float, slack: tuple[float, float], expected: Verdict) -> None:
    """Less is better, the slack is relative plus absolute, and a NaN is never good news."""
    assert verdict.judge_figure(a_figure(slack), (base, head)).verdict is expected


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure("", "ValueError: no"), Verdict.FAILS),
        (Failure("", "skipped"), Verdict.FAILS),
        (Failure("skipped", ""), Verdict.NEW),
        (Failure("skipped", "skipped"), Verdict.SAME),
    ],
)
def test_what_cannot_be_measured(failure: Failure, expected: Verdict) -> None:
    """Head must be able to do what base can."""
    assert verdict.judge_time(a_time(), failure, FACTOR).verdict is expected
    assert verdict.judge_figure(a_figure(), failure).verdict is expected


# --- the report


def test_quantities() -> None:
    """Four digits and a unit that fits."""
    told = [report.quantity(x, "seconds") for x in (12.34567, 0.0123456, 1.5e-5, 2e-8, math.nan)]
    assert told == ["12.35 s", "12.35 ms", "15 us", "0.02 us", "-"]
    told = [report.quantity(x, "bytes") for x in (0, 12, 4096, 5 << 20, 3 << 30)]
    assert told == ["0 B", "12 B", "4 KiB", "5 MiB", "3 GiB"]
    assert report.quantity(11, "functions") == "11 functions"


def test_the_table() -> None:
    """What is refused comes first, below titles, in columns."""
    better = Row("b", "bytes", 2048.0, 1024.0, 0.5, 0.5, 0.5, Verdict.BETTER)
    slower = Row("a(x)", "seconds", 0.001, 0.0013, 1.3, 1.25, 1.35, Verdict.SLOWER)
    fails = Row("c", "seconds", *[math.nan] * 5, Verdict.FAILS, "KeyError: 'x'")
    assert report.table([better, slower, fails]).splitlines() == [
        "        benchmark   base    head  ratio  interval",
        "fails   c              -       -      -  KeyError: 'x'",
        "slower  a(x)        1 ms  1.3 ms  1.300  1.250 to 1.350",
        "better  b          2 KiB   1 KiB  0.500",
    ]
    assert report.summary([better, slower, fails]) == "refused: 2 of 3 slower or worse"
    same = better._replace(verdict=Verdict.SAME)
    told = "passed: 1 the same, 1 changed, nothing slower or worse"
    assert report.summary([better, same]) == told
