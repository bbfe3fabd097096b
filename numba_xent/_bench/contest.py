"""Our library and others in turn, each in a process of its own, one of which computes at a time.

Each of the others meets ours in rounds of their own, so that no more than two of them hold arrays
at a time.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numba_xent._bench.cases import Task
from numba_xent._bench.operands import Operands
from numba_xent._bench.peers import OURSELVES, Peer
from numba_xent._bench.results import OURS, Measurement, measurement
from numba_xent._bench.timing import repeats

ANSWER_SECONDS = 300.0  # whoever compiles for longer has lost
TURN_SECONDS = 0.1  # a turn has so many calls that it takes about as long
TASK_SECONDS = 5.0  # fewer rounds if they would take longer
MIN_ROUNDS = 3
GRACE_SECONDS = 5.0  # for what is about to end
MAX_STARTS = 3  # whoever ends more often is not asked again
LIMITS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA")  # ..._NUM_THREADS
MAX_DIFFERENCE = 1e-3  # of the sum of losses; float32 sums of many numbers are not exact


class WorkerError(Exception):
    """A process did not do what it was asked to; the message says why."""


def _read(answers: Iterable[str], lines: queue.SimpleQueue[str]) -> None:
    for line in answers:
        lines.put(line)
    lines.put("")


class Worker:
    """A process in which a library computes.

    Parameters
    ----------
    peer : Peer
        The library.
    threads : int
        How many threads it may use.
    """

    def __init__(self, peer: Peer, threads: int) -> None:
        self.peer = peer
        self._threads = threads
        self._starts = 0
        self._start()

    def _start(self) -> None:
        self._starts += 1
        threads = str(self._threads)
        package = Path(__file__).parents[2]
        path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "numba_xent._bench.worker", self.peer.factory, threads],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={
                **os.environ,
                "PYTHONPATH": path,
                "CUDA_VISIBLE_DEVICES": "",
                "JAX_PLATFORMS": "cpu",
                "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no processes of its own, to stay behind
                **{f"{name}_NUM_THREADS": threads for name in LIMITS},
            },
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        reading = (self._process.stdout, self._lines)
        self._reader = threading.Thread(target=_read, args=reading, daemon=True)
        self._reader.start()

    def revive(self) -> None:
        """Start the process again if it has ended, unless that has been tried often enough."""
        if not self.is_alive and self._starts < MAX_STARTS:
            self.close()
            self._start()

    def ask(self, request: dict[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Parameters
        ----------
        request : dict
            See `worker`.
        seconds : float, optional
            How long to wait.

        Returns
        -------
        dict
            The answer.

        Raises
        ------
        WorkerError
            If there is none, or it is an error.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise WorkerError(f"no answer in {seconds:g} s") from None
        except (OSError, ValueError):  # the pipe is broken, or closed
            line = ""
        if not line:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)
            raise WorkerError(f"its process has ended with status {self.close()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    @property
    def is_alive(self) -> bool:
        """Whether the process can be asked."""
        return self._process.poll() is None

    def close(self) -> int:
        """End the process, if it has not ended by itself, and return its status."""
        self._process.kill()
        status = self._process.wait()
        self._reader.join(GRACE_SECONDS)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # what was written last may have nowhere to go
            self._process.stdin.close()
        if not self._reader.is_alive():  # else a process that it has left behind holds the pipe
            self._process.stdout.close()
        return status


@contextmanager
def _worker(peer: Peer, threads: int) -> Iterator[Worker]:
    worker = Worker(peer, threads)
    try:
        yield worker
    finally:
        worker.close()


def compete(
    peers: Sequence[Peer],
    tasks: Sequence[Task],
    threads: int,
    rounds: int,
    on_done: Callable[[], None] = lambda: None,
) -> tuple[list[Measurement], list[str]]:
    """Measure every task in turn with every peer.

    Parameters
    ----------
    peers : sequence of Peer
        Those that are installed.
    tasks : sequence of Task
        What to compute.
    threads, rounds : int
        How many.
    on_done : callable, optional
        Called after each task with each peer.

    Returns
    -------
    measurements : list of Measurement
        One per task and peer that could do it; the peer is the only other contestant.
    notes : list of str
        Why the others could not.
    """
    measurements = []
    notes: dict[str, list[str]] = {}
    with _worker(OURSELVES, threads) as ours:
        for peer in peers:
            with _worker(peer, threads) as theirs:
                for task in tasks:
                    theirs.revive()
                    try:
                        measurements.append(_meet(task, ours, theirs, threads, rounds))
                    except WorkerError as error:
                        name = f"{task.case.name} {task.labels} {task.of}"
                        notes.setdefault(f"{peer.name}: {error}", []).append(name)
                        if not ours.is_alive:
                            raise
                    on_done()
    return measurements, [f"{reason} ({_listed(names)})" for reason, names in notes.items()]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _meet(task: Task, ours: Worker, theirs: Worker, threads: int, rounds: int) -> Measurement:
    workers = {OURS: ours, theirs.peer.name: theirs}
    # Theirs first: if it cannot, ours need not.
    ready = {
        name: worker.ask({"prepare": task.as_dict()})
        for name, worker in reversed(list(workers.items()))
    }
    right, other = ready[OURS]["loss"], ready[theirs.peer.name]["loss"]
    if not math.isclose(right, other, rel_tol=MAX_DIFFERENCE):
        raise WorkerError("computes another loss")
    calls = {name: repeats(answer["seconds"], TURN_SECONDS) for name, answer in ready.items()}
    turn = sum(calls[name] * answer["seconds"] for name, answer in ready.items())
    rounds = max(min(rounds, MIN_ROUNDS), min(rounds, int(TASK_SECONDS / turn)))
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    names = list(workers)
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            seconds[name].append(workers[name].ask({"calls": calls[name]})["seconds"])
    return measurement(task, threads, Operands(task.case).nbytes(task), seconds)
