"""The process that one revision runs in: ``python worker.py FOLDER``, of its own environment.

It reads requests from stdin and answers on stdout, a line of JSON each; an answer of ``{"error":
reason}`` does not end it. The benchmarks are those of asv in a folder, found as asv finds them:

``{"list": true}``
    all of them, and the versions of what they depend on;
``{"prepare": [name, combination]}``
    sets up one, for the combination of parameters with that number, and says whether asv would
    skip it and whether it times processes;
``{"time": [number, batches]}``
    times batches of so many calls and says how long a call took in the fastest of them;
``{"figure": true}``
    says what it tracks.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

RAW = "Timeraw"
WARM_SECONDS = 0.003


def parameters(benchmark: Any) -> Iterator[tuple[str, ...]]:
    """The combinations of a benchmark's parameters, in asv's order."""
    return itertools.product(*benchmark._params)


def label(name: str, words: tuple[str, ...]) -> str:
    """What to call one combination of a benchmark."""
    return f"{name}({', '.join(words)})" if words else name


class Session:
    """Answers requests about the benchmarks of a folder."""

    def __init__(self, folder: Path) -> None:
        from asv_runner.discovery import disc_benchmarks  # noqa: PLC0415 - only in environments

        sys.path.insert(0, str(folder.parent))
        self._found = {b.name: b for b in disc_benchmarks(str(folder))}
        self._current: Any = None
        self._timer: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request says."""
        (what,) = request
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "list": lambda _: self.list(),
            "prepare": lambda which: self.prepare(*which),
            "time": lambda how: self.time(*how),
            "figure": lambda _: {"figure": self._current.do_run()},
        }
        return actions[what](request[what])

    def list(self) -> dict[str, Any]:
        """All combinations of all benchmarks."""
        import numba  # noqa: PLC0415 - only in environments
        import numpy as np  # noqa: PLC0415

        found = [
            {
                "name": name,
                "combination": combination,
                "label": label(name, words),
                "type": benchmark.type,
                "unit": benchmark.unit,
                "slack": getattr(benchmark.func.__self__, "slack", None),
                "gated": getattr(benchmark.func.__self__, "in_gate", _never)(*words),
            }
            for name, benchmark in self._found.items()
            for combination, words in enumerate(parameters(benchmark))
        ]
        return {"benchmarks": found, "numba": numba.__version__, "numpy": np.__version__}

    def prepare(self, name: str, combination: int) -> dict[str, Any]:
        """Set up a combination of a benchmark."""
        self._end()
        benchmark = self._found.get(name)
        if benchmark is None:
            return {"skipped": True}
        if benchmark._params:
            benchmark.set_param_idx(combination)
        benchmark._redo_setup_next = False
        if benchmark.do_setup():
            return {"skipped": True}
        self._current = benchmark
        if benchmark.type == "time":
            self._timer = benchmark._get_timer(*benchmark._current_params)
        return {"skipped": False, "raw": type(benchmark).__name__.startswith(RAW)}

    def time(self, number: int, batches: int) -> dict[str, Any]:
        """Time some batches of calls, after some that nobody times.

        Those fill the caches, and outlast the threads of the other process: they still look for
        work some milliseconds after their last call.
        """
        start = time.perf_counter()
        while batches > 1 and time.perf_counter() - start < WARM_SECONDS:
            self._timer.timeit(number)
        return {"seconds": min(self._timer.timeit(number) for _ in range(batches)) / number}

    def _end(self) -> None:
        if self._current is not None:
            self._current.do_teardown()
        self._current = self._timer = None


def _never(*_words: str) -> bool:
    return False


def serve(session: Session, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more.

    Parameters
    ----------
    session : Session
        Who answers.
    requests, answers : file
        Lines of JSON.
    """
    for line in requests:
        try:
            answer = session.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever a revision may raise
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Run the process."""
    # What is measured may print to stdout; that must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(Session(Path(sys.argv[1])), sys.stdin, answers)


if __name__ == "__main__":
    main()
