"""Rounds of calls in turn, and what their timings come to.

Machines are never quiet. Whatever slows down one call slows down its neighbours in time: so calls
are compared within a round, and the median over all rounds is what counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numba
import numpy as np

MIN_SECONDS = 0.002  # shorter calls are repeated so long within a round
MAX_CALLS = 10_000


class Summary(NamedTuple):
    """The median of some rounds, their quartiles, and all of them."""

    median: float
    lower: float
    upper: float
    rounds: tuple[float, ...]

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Self:
        """Summarise a number of each round."""
        lower, median, upper = (float(x) for x in np.quantile(rounds, [0.25, 0.5, 0.75]))
        return cls(median, lower, upper, tuple(float(x) for x in rounds))


class Contestant(NamedTuple):
    """One of the calls that are measured in turn."""

    name: str
    call: Callable[[], Any]
    threads: int


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Summary:
    """Summarise the quotients of two numbers of each round."""
    return Summary.of([a / b for a, b in zip(numerators, denominators, strict=True)])


def repeats(seconds: float, least: float, most: int = MAX_CALLS) -> int:
    """Say how many calls take at least so long."""
    return min(most, max(1, math.ceil(least / max(seconds, 1e-9))))


def take_turns(contestants: Sequence[Contestant], rounds: int) -> dict[str, list[float]]:
    """Measure some calls, one after the other, round by round.

    Parameters
    ----------
    contestants : sequence of Contestant
        The calls; each round begins with another one.
    rounds : int
        How often each of them has its turn.

    Returns
    -------
    dict of str to list of float
        Seconds that a call of each contestant took, in each round.
    """
    calls = {}
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    before = numba.get_num_threads()
    try:
        for contestant in contestants:
            _seconds(contestant, 1)  # compiles
            calls[contestant.name] = repeats(_seconds(contestant, 1), MIN_SECONDS)
        for number in range(rounds):
            first = number % len(contestants)
            for contestant in (*contestants[first:], *contestants[:first]):
                seconds[contestant.name].append(_seconds(contestant, calls[contestant.name]))
    finally:
        numba.set_num_threads(before)
    return seconds


def _seconds(contestant: Contestant, calls: int) -> float:
    numba.set_num_threads(contestant.threads)
    call = contestant.call
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls
