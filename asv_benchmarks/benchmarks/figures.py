"""Figures that are the same however busy the machine is; but for the last, which is a ratio.

`slack` is by how much the gate lets a figure differ: relative to what it was, and absolute.
"""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from typing import Any, ClassVar

import numpy as np

from . import arrays
from .borrowed import helper
from .calls import find, make_call
from .registry import ACCURACY, LAYOUTS, MEMORY, PROBE, SPARSE, Entry


class Figure:
    """Figures of the calls of an entry."""

    entry: ClassVar[Entry]
    version = "1"
    timeout = 300.0

    def __init_subclass__(cls) -> None:
        """Tell asv the axes of the entry."""
        cls.params = [list(words) for words in cls.entry.axes.values()]
        cls.param_names = list(cls.entry.axes)

    params: ClassVar[list[list[str]]]
    param_names: ClassVar[list[str]]

    def in_gate(self, *words: str) -> bool:
        """Whether the gate takes these."""
        return self.entry.in_gate(*words)


class _Allocated(Figure):
    """Bytes that a warm call holds at its peak, its result included.

    On one thread: how far the scratch memory of several overlaps is a matter of luck.
    """

    entry = MEMORY
    unit = "bytes"
    slack = (0.0, 4096)  # an object more or less is no array

    def setup(self, *words: str) -> None:
        """Make arrays and compile."""
        self.peaks = helper("peaks")
        self.numba = importlib.import_module("numba")
        self.threads = self.numba.get_num_threads()
        self.numba.set_num_threads(1)
        self.call = make_call(self.entry.call(*words))
        self.call()

    def track_allocated(self, *_words: str) -> int:
        """The peak of what tracemalloc sees: arrays of NumPy, and of compiled code."""
        return int(self.peaks.peak(self.call))

    def teardown(self, *_words: str) -> None:
        """Leave the threads as they were."""
        self.numba.set_num_threads(self.threads)


class Memory(_Allocated):
    """Bytes that a warm call of each function holds at its peak, its result included."""


class Layouts(_Allocated):
    """The same for other shapes and labels, where an operand might be copied."""

    entry = LAYOUTS


class Accuracy(Figure):
    """The worst error of a loss against arithmetic in a wider type, in units of the last place."""

    entry = ACCURACY
    unit = "ulp"
    slack = (0.0, 0.05)

    def setup(self, *words: str) -> None:
        """Make rows of all kinds, and find the truth."""
        chosen = self.entry.call(*words)
        oracle = helper("oracle")
        self.dtype = arrays.dtype_of(chosen["dtype"])
        rows = np.concatenate([rows.astype(np.float64) for rows in _hard_rows()])
        # Beyond their range halves would be infinite.
        logits = np.clip(rows, -6e4, 6e4).astype(self.dtype)
        numbers = np.arange(len(logits)) % logits.shape[1]
        if chosen["function"] == SPARSE:
            labels: Any = numbers
            truth = oracle.sparse(labels, logits).value
            per_class = oracle.one_hot(labels, logits.shape[1])
        else:
            labels = per_class = np.eye(logits.shape[1], dtype=self.dtype)[numbers] / 2
            truth = oracle.dense(labels, logits).value
        self.losses = find(chosen["function"])(labels=labels, logits=logits)
        # A loss that depends much on its logits cannot be better than they are.
        self.allowed = np.maximum(1, oracle.condition(per_class, logits))
        self.error = oracle.error_in_ulp(self.losses, truth, self.dtype)

    def track_worst_error(self, *_words: str) -> float:
        """Of all rows; relative to their condition number, where that is more than 1."""
        return float(np.max(self.error / self.allowed))


class Specialisations:
    """How many functions are compiled for a given set of calls, in a fresh process."""

    version = "1"
    unit = "functions"
    timeout = 600.0
    slack = (0.0, 0)
    params = ("float32", "all floats")
    param_names = ("dtypes",)

    _CODE = """
import sys
import ml_dtypes, numpy as np
import numba_xent as xent
try:
    from numba_xent._cpu.compile import caches
except ImportError:
    sys.exit(3)
dtypes = sys.argv[1:]
for name in dtypes:
    for shape, axis in ((8, 10), 1), ((4, 200), 1), ((2, 10, 8), 1):
        logits = np.zeros(shape, name)
        numbers = np.zeros(shape[:axis] + shape[axis + 1:], np.int64)
        dense = xent.nn.softmax_cross_entropy_with_logits_v2
        sparse = xent.nn.sparse_softmax_cross_entropy_with_logits
        last = np.moveaxis(logits, axis, -1)
        dense(labels=logits, logits=logits, axis=axis)
        xent.value_and_grad(dense)(labels=logits, logits=logits, axis=axis)
        sparse(labels=numbers, logits=last)
        xent.value_and_grad(sparse)(labels=numbers, logits=last)
print(len(caches()))
"""
    _NOTHING_TO_COUNT = 3

    def setup(self, dtypes: str) -> None:
        """Run the calls and count."""
        names = ["float16", "bfloat16", "float32", "float64"] if " " in dtypes else [dtypes]
        self.count = self._count(tuple(names))

    @classmethod
    @functools.cache
    def _count(cls, names: tuple[str, ...]) -> int:
        done = subprocess.run(
            [sys.executable, "-P", "-c", cls._CODE, *names],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode == cls._NOTHING_TO_COUNT:
            raise NotImplementedError("this revision does not list what it compiles")
        done.check_returncode()
        return int(done.stdout)

    def track_compiled(self, dtypes: str) -> int:
        """Kernels, and what reads and writes each dtype for them."""
        return self.count

    def in_gate(self, dtypes: str) -> bool:
        """The gate takes what is compiled sooner."""
        return dtypes == "float32"


class Probe(Figure):
    """Time of a call in units of the time it takes to move its bytes: 1 is the speed of memory.

    The reciprocal of the fraction that ``python -m numba_xent bench`` shows, because to asv more is
    worse. Both are measured in turn, by the installed revision's own benchmark.
    """

    entry = PROBE
    unit = "times the probe"
    rounds = 15

    def setup(self, *words: str) -> None:
        """Make arrays and compile."""
        chosen = self.entry.call(*words)
        try:
            probe = importlib.import_module("numba_xent._bench.probe")
            self.timing = importlib.import_module("numba_xent._bench.timing")
        except ImportError as error:
            raise NotImplementedError("this revision has no probe") from error
        call = make_call(chosen)
        call()
        shape, dtype = arrays.Shape.parse(chosen["logits"]), chosen["dtype"]
        kind = "default"
        labels = (
            arrays.class_numbers(shape, kind)
            if chosen["function"] == SPARSE
            else arrays.dense_labels(shape, dtype, kind)
        )
        writes = [np.ones(shape.batch, arrays.dtype_of(dtype))]
        if chosen["of"] == "gradient":
            writes.append(arrays.written(shape.sizes, dtype))
        moved = probe.Probe([arrays.logits(shape, dtype), labels], writes)
        threads = importlib.import_module("numba").get_num_threads()
        self.contestants = [
            self.timing.Contestant("call", call, threads),
            self.timing.Contestant("probe", moved, threads),
        ]

    def track_time_over_probe(self, *_words: str) -> float:
        """The median of the ratios of neighbours in time."""
        seconds = self.timing.take_turns(self.contestants, self.rounds)
        return float(self.timing.ratios(seconds["call"], seconds["probe"]).median)


def _hard_rows() -> list[np.ndarray[Any, Any]]:
    """Rows with large and small spread, far from 0, and with one class that leads."""
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((200, 501))
    leading = plain.copy()
    leading[np.arange(200), np.arange(200) % 501] += np.repeat((2, 6, 10, 15), 50)
    return [plain * scale for scale in (0.001, 1, 10, 100)] + [plain + 3000, leading]
