"""The process that a library computes in: ``python -m numba_xent._bench.worker FACTORY THREADS``.

It reads requests from stdin and answers on stdout, a line of JSON each. ``{"prepare": task}`` makes
a call ready and says how long one takes and what the sum of the losses is; ``{"calls": n}``
measures it n times and says how long one takes. An answer of ``{"error": reason}`` means that
there is no call to measure; the next request may still succeed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, TextIO

from numba_xent._bench.cases import Task
from numba_xent._bench.operands import Operands

MAX_REASON = 100


class _Session:
    def __init__(self, prepare: Callable[..., Any]) -> None:
        self._prepare = prepare
        self._operands: Operands | None = None
        self._call: Callable[[], Any] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "prepare" in request:
            return self.prepare(Task.from_dict(request["prepare"]))
        return {"seconds": self.seconds(request["calls"])}

    def prepare(self, task: Task) -> dict[str, Any]:
        self._call = None
        if self._operands is None or self._operands.case != task.case:
            self._operands = None  # free memory before more is taken
            gc.collect()
            self._operands = Operands(task.case)
        self._call, total = self._prepare(task, self._operands)
        loss = total(self._call())
        return {"loss": loss, "seconds": self.seconds(1)}

    def seconds(self, calls: int) -> float:
        if self._call is None:
            raise RuntimeError("there is no call to measure")
        each = []
        for _ in range(calls):
            started = time.perf_counter()
            self._call()
            each.append(time.perf_counter() - started)
        return statistics.median(each)


def serve(make: Callable[[], Callable[..., Any]], requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more.

    Parameters
    ----------
    make : callable
        Returns the function that prepares calls, see `peers`.
    requests, answers : file
        Lines of JSON.
    """
    session = None
    for line in requests:
        try:
            session = session or _Session(make())
            answer = session.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever a foreign library may raise
            answer = {"error": reason_of(error)}
        print(json.dumps(answer), file=answers, flush=True)


def reason_of(error: BaseException) -> str:
    """Say in one short line what went wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0] if len(lines[0]) <= MAX_REASON else f"{lines[0][:MAX_REASON]}..."
    name = type(error).__name__
    return text if name in ("UnsupportedError", text) else f"{name}: {text}"


def _use_processors(count: int) -> None:
    """Let no library start more threads than it may, whatever it asks the system."""
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))[:count]
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, processors)


def main() -> None:
    """Run the process."""
    factory, threads = sys.argv[1], int(sys.argv[2])
    # Some libraries print to stdout; that must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    _use_processors(threads)
    module, _, name = factory.partition(":")

    def make() -> Callable[..., Any]:
        prepare: Callable[..., Any] = getattr(importlib.import_module(module), name)(threads)
        return prepare

    serve(make, sys.stdin, answers)


if __name__ == "__main__":
    main()
