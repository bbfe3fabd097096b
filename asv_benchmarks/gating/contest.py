"""Two revisions in turn.

Machines are never quiet, and the speed of memory may halve from one minute to the next. Whatever
slows one call slows its neighbours in time: so base and head take turns of some milliseconds, and
each turn of one is compared with the turn of the other beside it. Two processes of the same code
may differ for good by where their memory happens to lie: so every *launch* starts both anew, each
of them first in half of the launches.
"""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gating import GateError
from gating.environments import Environment

WORKER = Path(__file__).with_name("worker.py")
MIN_SECONDS = 0.0002  # shorter calls are repeated so long within a batch
MAX_CALLS = 10_000
BATCHES = 8  # the fastest of them counts: what disturbs a batch only ever makes it slower
LEAST_PAIRS = 2


class Benchmark(NamedTuple):
    """A benchmark of asv, for one combination of its parameters."""

    name: str
    combination: int
    label: str
    type: str
    unit: str
    slack: tuple[float, float] | None
    gated: bool

    @property
    def is_time(self) -> bool:
        """Whether it is to be timed."""
        return self.type == "time"

    @property
    def is_figure(self) -> bool:
        """Whether it gives a number that does not depend on how busy the machine is."""
        return self.type == "track" and self.slack is not None


class Effort(NamedTuple):
    """How much is measured.

    Attributes
    ----------
    launches
        How often both processes are started.
    pairs
        Up to how many turns each of them has, per launch and benchmark.
    seconds
        About how long they may take; but for two turns there is always time.
    """

    launches: int = 6
    pairs: int = 15
    seconds: float = 0.5


class Failure(NamedTuple):
    """What one of the revisions could not do."""

    base: str
    head: str


Pairs = list[list[tuple[float, float]]]
"""Seconds of base and head, turn by turn, for each launch."""

Outcome = Pairs | Failure


class Worker:
    """The process of a revision."""

    def __init__(self, environment: Environment, benchmarks: Path) -> None:
        self.environment = environment
        self._process = subprocess.Popen(
            [str(environment.python), str(WORKER), str(benchmarks)],
            env=environment.variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, and wait for the answer."""
        self.send(**request)
        return self.receive()

    def send(self, **request: Any) -> None:
        """Send a request.

        Raises
        ------
        GateError
            If the process has ended.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self) -> dict[str, Any]:
        """Wait for the answer to the last request.

        Raises
        ------
        GateError
            If the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> GateError:
        status = self._process.wait()
        return GateError(f"the process of {self.environment.revision} ended with status {status}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def workers(environments: Sequence[Environment], benchmarks: Path) -> Iterator[list[Worker]]:
    """Start a process for each revision, and end them."""
    started: list[Worker] = []
    try:
        started.extend(Worker(environment, benchmarks) for environment in environments)
        yield started
    finally:
        for worker in started:
            worker.close()


def _ask_all(pair: Sequence[Worker], **request: Any) -> list[dict[str, Any]]:
    for worker in pair:
        worker.send(**request)
    return [worker.receive() for worker in pair]


def _failure(answers: Sequence[dict[str, Any]]) -> Failure | None:
    problems = ["skipped" if a.get("skipped") else a.get("error", "") for a in answers]
    return Failure(*problems) if any(problems) else None


def list_benchmarks(head: Environment, folder: Path) -> tuple[list[Benchmark], dict[str, str]]:
    """List what can be measured, and the versions of what a revision depends on.

    Raises
    ------
    GateError
        If the benchmarks cannot be imported.
    """
    with workers([head], folder) as (worker,):
        answer = worker.ask(list=True)
    if "error" in answer:
        raise GateError(f"{folder}: {answer['error']}")
    slack = "slack"
    found = [
        Benchmark(**{**fields, slack: None if fields[slack] is None else tuple(fields[slack])})
        for fields in answer.pop("benchmarks")
    ]
    return found, answer


def figures(
    pair: Sequence[Environment],
    folder: Path,
    benchmarks: Sequence[Benchmark],
) -> dict[Benchmark, tuple[float, float] | Failure]:
    """Ask both revisions for their figures, at the same time."""
    found: dict[Benchmark, tuple[float, float] | Failure] = {}
    with workers(pair, folder) as both:
        for benchmark in benchmarks:
            answers = _ask_all(both, prepare=[benchmark.name, benchmark.combination])
            problem = _failure(answers)
            if problem is None:
                answers = _ask_all(both, figure=True)
                problem = _failure(answers)
            found[benchmark] = problem or (answers[0]["figure"], answers[1]["figure"])
    return found


def times(
    pair: Sequence[Environment],
    folder: Path,
    benchmarks: Sequence[Benchmark],
    effort: Effort,
) -> dict[Benchmark, Outcome]:
    """Time benchmarks in both revisions, in turn."""
    found: dict[Benchmark, Outcome] = {benchmark: [] for benchmark in benchmarks}
    for launch in range(effort.launches):
        first = launch % 2
        # Who starts first finds other memory than who comes second.
        with workers(pair if first == 0 else pair[::-1], folder) as started:
            both = started if first == 0 else started[::-1]
            for benchmark in benchmarks:
                outcome = found[benchmark]
                if not isinstance(outcome, Failure):
                    turns = _take_turns(both, benchmark, effort, first)
                    if isinstance(turns, Failure):
                        found[benchmark] = turns
                    else:
                        outcome.append(turns)
    return found


def _take_turns(
    pair: Sequence[Worker], benchmark: Benchmark, effort: Effort, first: int
) -> list[tuple[float, float]] | Failure:
    answers = _ask_all(pair, prepare=[benchmark.name, benchmark.combination])
    problem = _failure(answers)
    if problem is not None:
        return problem
    number, batches = 1, 1
    if not answers[0]["raw"]:
        tried = pair[first].ask(time=[1, BATCHES])
        if "error" not in tried:
            number = math.ceil(MIN_SECONDS / max(tried["seconds"], 1e-9))
        number, batches = min(MAX_CALLS, number), BATCHES
    started = time.perf_counter()
    found = []
    for k in range(effort.pairs):
        if k >= LEAST_PAIRS and time.perf_counter() - started > effort.seconds:
            break
        order = (0, 1) if (k + first) % 2 == 0 else (1, 0)
        turns = {side: pair[side].ask(time=[number, batches]) for side in order}
        problem = _failure([turns[0], turns[1]])
        if problem is not None:
            return problem
        found.append((turns[0]["seconds"], turns[1]["seconds"]))
    return found
