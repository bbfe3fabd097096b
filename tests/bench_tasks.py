"""Tasks of the benchmark, measurements that are made up, and libraries that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numba_xent._bench.cases import Case, Task, tasks_of
from numba_xent._bench.options import SECTIONS
from numba_xent._bench.peers import Peer
from numba_xent._bench.results import OURS, Measurement, measurement

SMALL = Case((6, 5))


def task(section: str = "throughput", **changes: Any) -> Task:
    """Return a task, dense values of a small case unless told otherwise."""
    return Task(section, SMALL, "dense", False)._replace(**changes)


def synthetic(of: Task, **others: float) -> Measurement:
    """Return what would be measured if a call of ours took 2 ms, and others as long as they say."""
    seconds = {OURS: [0.002] * 3, **{name: [time] * 3 for name, time in others.items()}}
    return measurement(of, 2, 8_000_000, seconds)


def all_tasks(*, quick: bool) -> Iterator[Task]:
    """All tasks of all sections."""
    for section in SECTIONS:
        yield from tasks_of(section, quick=quick)


FAKE = {name: Peer(name, f"a {name} library", (), f"fake_peers:{name}") for name in (
    "right", "wrong", "failing", "dying", "silent"
)}  # fmt: skip
