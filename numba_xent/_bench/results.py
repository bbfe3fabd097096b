"""What was measured, and the file that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from numba_xent._bench import BenchError
from numba_xent._bench.cases import Task
from numba_xent._bench.timing import Summary, ratios

OURS = "numba_xent"
FORMAT = 1
"""Number of the layout of the file; to be raised when names in it change their meaning."""


class Measurement(NamedTuple):
    """The outcome of a task.

    Attributes
    ----------
    task
        What was measured.
    threads
        On how many threads.
    nbytes
        Bytes that a call without options must move.
    seconds
        Time per call, by contestant.
    speed
        Time of every other contestant divided by ours: how many times as fast we are. Against the
        probe, this is the fraction of the speed of memory.
    """

    task: Task
    threads: int
    nbytes: int
    seconds: dict[str, Summary]
    speed: dict[str, Summary]

    @property
    def ours(self) -> float:
        """The median of our seconds."""
        return self.seconds[OURS].median

    @property
    def against(self) -> Summary:
        """Our speed against the first of the others."""
        return next(iter(self.speed.values()))

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            **self.task.as_dict(),
            "threads": self.threads,
            "bytes": self.nbytes,
            "seconds": {name: summary._asdict() for name, summary in self.seconds.items()},
            "speed": {name: summary._asdict() for name, summary in self.speed.items()},
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return what `as_dict` was made of."""
        seconds, speed = (
            {
                name: Summary(**{**summary, "rounds": tuple(summary["rounds"])})
                for name, summary in fields[key].items()
            }
            for key in ("seconds", "speed")
        )
        return cls(Task.from_dict(dict(fields)), fields["threads"], fields["bytes"], seconds, speed)


def measurement(
    task: Task, threads: int, nbytes: int, seconds: Mapping[str, Sequence[float]]
) -> Measurement:
    """Summarise the seconds of all contestants in all rounds."""
    return Measurement(
        task,
        threads,
        nbytes,
        {name: Summary.of(rounds) for name, rounds in seconds.items()},
        {name: ratios(rounds, seconds[OURS]) for name, rounds in seconds.items() if name != OURS},
    )


def save_json(
    path: Path,
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    measurements: Sequence[Measurement],
    notes: Sequence[str],
) -> None:
    """Write everything that was measured, and where.

    Parameters
    ----------
    path : Path
        The file to write.
    machine, settings : mapping
        What the measurements depend on.
    measurements : sequence of Measurement
        All of them.
    notes : sequence of str
        What was left out, and why.

    Raises
    ------
    BenchError
        If the file cannot be written.
    """
    everything = {
        "format": FORMAT,
        "machine": machine,
        "settings": settings,
        "measurements": [measurement.as_dict() for measurement in measurements],
        "notes": notes,
    }
    try:
        path.write_text(json.dumps(everything, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise BenchError(f"--json {path}: {error.strerror or error}") from error


class Saved(NamedTuple):
    """What a file of `save_json` holds, see there."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    measurements: list[Measurement]
    notes: list[str]


def load_json(path: Path) -> Saved:
    """Read what `save_json` wrote.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Saved
        Its content.

    Raises
    ------
    BenchError
        If it cannot be read, or was written by another version of the benchmark.
    """
    try:
        everything = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: {error}") from error
    if not isinstance(everything, dict) or everything.get("format") != FORMAT:
        raise BenchError(f"{path}: these are no measurements of format {FORMAT}")
    return Saved(
        everything["machine"],
        everything["settings"],
        [Measurement.from_dict(fields) for fields in everything["measurements"]],
        everything["notes"],
    )
