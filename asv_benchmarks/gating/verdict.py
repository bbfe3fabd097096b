"""What the numbers of two revisions come to."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from gating.contest import Benchmark, Failure, Outcome

CONFIDENCE = 0.999
"""Of the interval around the median of the ratios."""


class Verdict(enum.Enum):
    """How head compares with base."""

    SAME = "same"
    SLOWER = "slower"
    FASTER = "faster"
    WORSE = "worse"
    BETTER = "better"
    FAILS = "fails"
    NEW = "new"

    @property
    def is_refused(self) -> bool:
        """Whether the gate stays shut."""
        return self in (Verdict.SLOWER, Verdict.WORSE, Verdict.FAILS)


class Row(NamedTuple):
    """A benchmark and its verdict.

    Attributes
    ----------
    label, unit
        What was measured.
    base, head
        The medians of the seconds, or the figures; NaN where there are none.
    ratio, lower, upper
        Head over base: the median over all pairs of neighbours, and its confidence interval.
    verdict
        What follows.
    note
        What else there is to say.
    """

    label: str
    unit: str
    base: float
    head: float
    ratio: float
    lower: float
    upper: float
    verdict: Verdict
    note: str = ""


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The confidence interval of the median, whatever the distribution, from order statistics.

    A value lies below the median as often as a coin shows heads: so the k-th smallest of n is
    above the median with the probability of fewer than k heads in n throws. With too few values
    for the confidence the interval has no ends.

    Parameters
    ----------
    values : sequence of float
        Independent values.
    confidence : float, optional
        How likely the interval is to contain the median.

    Returns
    -------
    lower, upper : float
        The ends of the interval.
    """
    ordered, n = sorted(values), len(values)
    allowed = (1 - confidence) / 2
    tail, k = 0.0, 0
    while k < n and (tail := tail + math.comb(n, k) / 2**n) <= allowed:
        k += 1
    if k == 0:
        return -math.inf, math.inf
    return ordered[k - 1], ordered[n - k]


def judge_time(benchmark: Benchmark, outcome: Outcome, factor: float) -> Row:
    """Judge seconds: beyond the factor, and different whichever way one looks.

    Slower is what has a median ratio above the factor, a confidence interval above 1, and a median
    ratio above 1 in every launch: what only one pair of processes shows is their memory's layout.
    """
    if isinstance(outcome, Failure):
        return _failed(benchmark, outcome)
    pairs = [pair for launch in outcome for pair in launch]
    ratios = [head / base for base, head in pairs]
    ratio = statistics.median(ratios)
    lower, upper = interval(ratios)
    launches = [statistics.median(head / base for base, head in launch) for launch in outcome]
    verdict = Verdict.SAME
    if ratio > factor and lower > 1 and min(launches) > 1:
        verdict = Verdict.SLOWER
    elif ratio < 1 / factor and upper < 1 and max(launches) < 1:
        verdict = Verdict.FASTER
    base, head = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(benchmark.label, benchmark.unit, base, head, ratio, lower, upper, verdict)


def judge_figure(benchmark: Benchmark, outcome: tuple[float, float] | Failure) -> Row:
    """Judge a figure, of which less is better: it may be more by its slack."""
    if isinstance(outcome, Failure):
        return _failed(benchmark, outcome)
    base, head = outcome
    relative, absolute = benchmark.slack or (0.0, 0.0)
    slack = relative * abs(base) + absolute
    verdict = Verdict.SAME
    if not head <= base + slack:  # a NaN is worse than any number
        verdict = Verdict.SAME if math.isnan(base) and math.isnan(head) else Verdict.WORSE
    elif head < base - slack:
        verdict = Verdict.BETTER
    ratio = head / base if base else math.nan
    return Row(benchmark.label, benchmark.unit, base, head, ratio, ratio, ratio, verdict)


def _failed(benchmark: Benchmark, failure: Failure) -> Row:
    """What base can do, head must be able to do."""
    verdict, note = Verdict.SAME, "neither revision can"
    if failure.head and not failure.base:
        verdict, note = Verdict.FAILS, failure.head
    elif failure.base and not failure.head:
        verdict, note = Verdict.NEW, f"base: {failure.base}"
    nan = math.nan
    return Row(benchmark.label, benchmark.unit, nan, nan, nan, nan, nan, verdict, note)
