"""What is measured: the shapes of every section, and what is computed of each."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

KINDS = ("dense", "sparse")
ALL_COUNTS = range(2, 65)
QUICK_COUNTS = (2, 3, 10, 64)
QUICK_LOGITS = 1 << 17  # enough to wake other threads
FROM_MEMORY = 1 << 22  # logits that no cache holds, or hardly any
PROBE = ("probe",)


class Case(NamedTuple):
    """An array of logits."""

    shape: tuple[int, ...]
    axis: int = 1
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """The shape, the class axis in brackets unless it is the last."""
        sizes = [str(size) for size in self.shape]
        if self.axis != len(self.shape) - 1:
            sizes[self.axis] = f"[{sizes[self.axis]}]"
        return "x".join(sizes)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.shape[self.axis]

    @property
    def logits(self) -> int:
        """How many logits there are."""
        return math.prod(self.shape)

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape without the class axis."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    def shrunk(self, most: int) -> Self:
        """Return the same with batch axes, then the class axis, halved until it is small."""
        sizes = list(self.shape)
        while math.prod(sizes) > most:
            batch = [i for i, size in enumerate(sizes) if i != self.axis and size > 1]
            longest = max(batch, key=lambda i: sizes[i], default=self.axis)
            sizes[longest] //= 2
        return self._replace(shape=tuple(sizes))


class Task(NamedTuple):
    """One measurement to make.

    Attributes
    ----------
    section
        Where it belongs.
    case
        The logits.
    labels
        ``"dense"`` or ``"sparse"``.
    gradient
        Whether the gradient is computed along with the value.
    option
        One of `WITH_OPTION`, or nothing.
    against
        What is measured in turn with it, see `sections.Arena`.
    """

    section: str
    case: Case
    labels: str
    gradient: bool
    option: str = ""
    against: tuple[str, ...] = ()

    @property
    def of(self) -> str:
        """What is computed, to show to the user."""
        return "gradient" if self.gradient else "value"

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "section": self.section,
            "problem": self.case.name,
            "shape": list(self.case.shape),
            "axis": self.case.axis,
            "dtype": self.case.dtype,
            "labels": self.labels,
            "of": self.of,
            "option": self.option,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return what `as_dict` was made of, but for `against`."""
        case = Case(tuple(fields["shape"]), fields["axis"], fields["dtype"])
        gradient = fields["of"] == "gradient"
        return cls(fields["section"], case, fields["labels"], gradient, fields["option"])


LARGE = (
    Case((1 << 20, 10)),
    Case((131072, 128)),
    Case((32768, 1000)),
    Case((1024, 32000)),
    Case((256, 128256)),
)
MIDDLE = Case((32, 21, 256, 256))
FIRST = Case((1000, 32768), axis=0)
HALVES = tuple(Case((32768, 1000), dtype=dtype) for dtype in ("float16", "bfloat16"))
FLAT_LONG = tuple(Case((rows, 1_000_000)) for rows in (1, 4, 16))
FLAT_CLASSES = tuple(Case((33_000_000 // c, c)) for c in (128, 1000, 8192, 65536, 1_000_000))
FLAT_ROWS = tuple(Case((10**n, 10)) for n in range(8))
SMALL = Case((32, 10))
MEDIUM = Case((512, 1000))

WITH_OPTION = {
    "dense": ("weights", "smoothing", "mean", "all", "broadcast labels"),
    "sparse": ("weights", "mean", "all"),
}
"""The options that are compared with a call that has none, by the kind of labels."""


def _each(section: str, *cases: Case, against: tuple[str, ...] = ()) -> Iterator[Task]:
    for case in cases:
        for labels in KINDS:
            for gradient in (False, True):
                yield Task(section, case, labels, gradient, against=against)


def _throughput() -> Iterator[Task]:
    yield from _each("throughput", *LARGE, MIDDLE, FIRST, against=PROBE)
    wide = _each("throughput", Case((16384, 1000), dtype="float64"), against=PROBE)
    yield from (task for task in wide if task.labels == "dense")


def _options() -> Iterator[Task]:
    for task in _each("options", Case((32768, 1000)), against=("no option",)):
        yield from (task._replace(option=option) for option in WITH_OPTION[task.labels])


def _flat() -> Iterator[Task]:
    for task in _each("flat", *FLAT_LONG, *FLAT_CLASSES, *FLAT_ROWS):
        # What fits in the caches says nothing about memory.
        yield task._replace(against=PROBE if task.case.logits >= FROM_MEMORY else ())


def tasks_of(section: str, *, quick: bool) -> list[Task]:
    """List what a section measures.

    Parameters
    ----------
    section : str
        Its name, one of `options.SECTIONS`.
    quick : bool
        Whether small problems will do.

    Returns
    -------
    list of Task
        Tasks of one case follow one another.
    """
    counts = QUICK_COUNTS if quick else ALL_COUNTS
    sections: dict[str, Callable[[], Iterator[Task]]] = {
        "throughput": _throughput,
        "few": lambda: _each("few", *(Case(((1 << 23) // c, c)) for c in counts), against=PROBE),
        "halves": lambda: _each("halves", *HALVES, against=(*PROBE, "float32")),
        "cache": lambda: _each("cache", Case((128, 1000)), Case((256, 1000))),
        "options": _options,
        "threads": lambda: _each("threads", MEDIUM, against=("1 thread",)),
        "flat": _flat,
        "latency": lambda: _each("latency", SMALL),
        "peers": lambda: _each("peers", *LARGE, MIDDLE, SMALL),
    }
    tasks = sections[section]()
    if not quick:
        return list(tasks)
    shrunk = (task._replace(case=task.case.shrunk(QUICK_LOGITS)) for task in tasks)
    return list({task._replace(against=()): task for task in shrunk}.values())


def is_available(dtype: str) -> bool:
    """Whether arrays of a dtype can be made here."""
    return dtype != "bfloat16" or importlib.util.find_spec("ml_dtypes") is not None
