"""Refuse a revision that is slower or worse than another: ``python gate.py BASE HEAD``.

Both are installed in environments of their own, measured in turn, and compared; what changed is
printed as a table. The exit status is 0 if nothing got slower or worse, 1 if something did, and 2
if that could not be found out. What it measures are benchmarks of asv, see ``benchmarks/``; how it
compares them, see ``gating/``.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gating import GateError, contest, environments, report, verdict
from gating.contest import Benchmark, Effort, Failure, Outcome
from gating.environments import Environment
from gating.verdict import Row

HERE = Path(__file__).resolve().parent
BENCHMARKS = HERE / "benchmarks"
FACTOR = 1.15
PASSED, REFUSED, FAILED = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="gate.py", description="Refuse a revision that is slower or worse than another."
    )
    parser.add_argument("base", help="the revision to compare with, as git knows it")
    parser.add_argument("head", help="the revision to judge")
    parser.add_argument(
        "--bench",
        metavar="REGEX",
        type=re.compile,
        help="measure the benchmarks whose names match (default: those that are marked for it)",
    )
    parser.add_argument(
        "--allow",
        metavar="REGEX",
        type=re.compile,
        help="let the benchmarks whose names match get slower or worse, as is intended",
    )
    parser.add_argument(
        "--factor",
        type=float,
        default=FACTOR,
        help="a time may grow by this factor (default: %(default)s)",
    )
    effort = Effort()
    parser.add_argument(
        "--launches",
        type=int,
        default=effort.launches,
        help="how often both processes are started (default: %(default)s)",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=effort.pairs,
        help="up to how many turns each of them has per launch (default: %(default)s)",
    )
    parser.add_argument("--all", action="store_true", help="show also what is the same")
    parser.add_argument(
        "--repository",
        type=Path,
        default=HERE.parent,
        metavar="FOLDER",
        help="where the revisions are (default: where this file is)",
    )
    parser.add_argument(
        "--environments",
        type=Path,
        default=HERE / ".asv" / "gate",
        metavar="FOLDER",
        help="where they are installed, and kept for the next time (default: .asv/gate)",
    )
    return parser


class Gate:
    """Measures two revisions and judges them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._folder = BENCHMARKS
        self._effort = Effort(options.launches, options.pairs)
        self._started = time.monotonic()

    def run(self) -> list[Row]:
        """Install, measure, and judge all benchmarks that are selected."""
        options = self._options
        pair = [
            environments.find(options.repository, revision, options.environments.resolve())
            for revision in (options.base, options.head)
        ]
        for side, environment in zip(("base", "head"), pair, strict=True):
            self._say(f"{side} is {environment.revision}, {environment.commit[:10]}")
        self._install(pair)
        selected = self._select(pair)
        timed = [benchmark for benchmark in selected if benchmark.is_time]
        tracked = [benchmark for benchmark in selected if benchmark.is_figure]
        if not timed and not tracked:
            raise GateError("no benchmark is selected")
        # Figures first: that compiles, of both revisions at the same time.
        self._say(f"measuring {len(tracked)} figures")
        figures = contest.figures(pair, self._folder, tracked)
        rows = [verdict.judge_figure(benchmark, found) for benchmark, found in figures.items()]
        self._say(f"compiling for {len(timed)} times")
        self._compile(pair, timed)
        return rows + self._judge_times(pair, timed)

    def _install(self, pair: Sequence[Environment]) -> None:
        self._say("installing")
        with ThreadPoolExecutor() as pool:
            # A revision that is compared with itself is installed once.
            wanted = {environment.commit: environment for environment in pair}.values()
            list(pool.map(lambda one: environments.install(self._options.repository, one), wanted))

    def _select(self, pair: Sequence[Environment]) -> list[Benchmark]:
        base, head = pair
        found, versions = contest.list_benchmarks(head, self._folder)
        _, others = contest.list_benchmarks(base, self._folder)
        for name, version in versions.items():
            if version != others[name]:
                self._say(f"note that base has {name} {others[name]} and head {version}")
        chosen = self._options.bench
        if chosen is None:
            return [benchmark for benchmark in found if benchmark.gated]
        return [benchmark for benchmark in found if chosen.search(benchmark.label)]

    def _compile(self, pair: Sequence[Environment], timed: Sequence[Benchmark]) -> None:
        """Set up everything once, both revisions at the same time, so that turns are not mixed."""
        with contest.workers(pair, self._folder) as both:
            for benchmark in timed:
                for worker in both:
                    worker.send(prepare=[benchmark.name, benchmark.combination])
                for worker in both:
                    worker.receive()

    def _judge_times(self, pair: Sequence[Environment], timed: Sequence[Benchmark]) -> list[Row]:
        """Judge times; what looks changed must do so again with as many launches more."""
        factor = self._options.factor
        self._say(f"measuring {len(timed)} times, {self._effort.launches} launches")
        found = contest.times(pair, self._folder, timed, self._effort)
        rows = {one: verdict.judge_time(one, found[one], factor) for one in timed}
        doubtful = [
            one
            for one in timed
            if rows[one].verdict is not verdict.Verdict.SAME and _can(found[one])
        ]
        if doubtful:
            self._say(f"measuring {len(doubtful)} of them again")
            again = contest.times(pair, self._folder, doubtful, self._effort)
            for one in doubtful:
                rows[one] = verdict.judge_time(one, _joined(found[one], again[one]), factor)
        return list(rows.values())

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._started:5.0f} s] {text}", file=sys.stderr, flush=True)


def _can(outcome: Outcome) -> bool:
    return not isinstance(outcome, Failure)


def _joined(first: Outcome, second: Outcome) -> Outcome:
    if isinstance(first, Failure) or isinstance(second, Failure):
        return second
    return first + second


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        0 if head may pass, 1 if it is refused, 2 if that is not known.
    """
    options = parser().parse_args(arguments)
    try:
        rows = Gate(options).run()
    except GateError as error:
        print(f"gate.py: error: {error}", file=sys.stderr)
        return FAILED
    shown = [row for row in rows if options.all or row.verdict is not verdict.Verdict.SAME]
    if shown:
        print(report.table(shown))
    judged = [row for row in rows if options.allow is None or not options.allow.search(row.label)]
    print(report.summary(judged))
    return REFUSED if any(row.verdict.is_refused for row in judged) else PASSED


if __name__ == "__main__":
    sys.exit(main())
