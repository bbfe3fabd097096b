"""Which calls meet which, and their measurement in this process."""

from __future__ import annotations

from numba_xent._bench.calls import our_call, our_call_with, our_call_without
from numba_xent._bench.cases import Task
from numba_xent._bench.operands import Operands
from numba_xent._bench.probe import Probe
from numba_xent._bench.results import OURS, Measurement, measurement
from numba_xent._bench.timing import Contestant, take_turns


class Arena:
    """Measures tasks; keeps the arrays of the last case, as the next task often has the same."""

    def __init__(self, threads: int, rounds: int) -> None:
        self._threads = threads
        self._rounds = rounds
        self._operands: Operands | None = None
        self._single: Operands | None = None

    def measure(self, task: Task) -> Measurement:
        """Measure one task, in turn with all that it is compared with."""
        if self._operands is None or self._operands.case != task.case:
            self._operands = self._single = None  # free memory before more is taken
            self._operands = Operands(task.case)
        operands = self._operands
        contestants = [self._ours(task, operands)]
        contestants += [self._other(name, task, operands) for name in task.against]
        seconds = take_turns(contestants, self._rounds)
        return measurement(task, self._threads, operands.nbytes(task), seconds)

    def _ours(self, task: Task, operands: Operands) -> Contestant:
        if task.option:
            return Contestant(OURS, our_call_with(task.option, task, operands), self._threads)
        return Contestant(OURS, our_call(task, operands), self._threads)

    def _other(self, name: str, task: Task, operands: Operands) -> Contestant:
        match name:
            case "probe":
                return Contestant(name, Probe(*operands.moved(task)), self._threads)
            case "no option":
                call = our_call_without(task.option, task, operands)
                return Contestant(name, call, self._threads)
            case "1 thread":
                return Contestant(name, our_call(task, operands), 1)
            case "float32":
                if self._single is None:
                    self._single = Operands(task.case._replace(dtype="float32"))
                return Contestant(name, our_call(task, self._single), self._threads)
        raise ValueError(name)
