"""One run of the benchmark, from the options to the last line of its report."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from numba_xent._bench import BenchError, plot, report
from numba_xent._bench.cases import Task, is_available, tasks_of
from numba_xent._bench.contest import WorkerError, compete
from numba_xent._bench.machine import describe_machine
from numba_xent._bench.options import QUICK_ROUNDS, ROUNDS, chosen_sections
from numba_xent._bench.peers import PEERS, Peer
from numba_xent._bench.results import Measurement, save_json
from numba_xent._bench.sections import Arena
from numba_xent._commandline import problem_with_file
from numba_xent._progress import Progress, progress_bar


def run_bench(options: argparse.Namespace) -> None:
    """Measure what the options say and print how it goes.

    Parameters
    ----------
    options : argparse.Namespace
        The parsed options of `numba_xent._bench.options`.

    Raises
    ------
    BenchError
        If that cannot be measured, or the files cannot be written.
    """
    try:
        _run(options)
    except MemoryError as error:
        raise BenchError("not enough memory; --quick takes little") from error
    except WorkerError as error:
        raise BenchError(f"the process that numba_xent runs in: {error}") from error


def _run(options: argparse.Namespace) -> None:
    sections = chosen_sections(options)
    if options.json is not None and (problem := problem_with_file(options.json, ".json")):
        raise BenchError(f"--json {options.json}: {problem}")
    if options.plot is not None:
        plot.check_plot(options.plot, sections)
    settings = {
        "threads": _threads(options.threads),
        "rounds": options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
        "quick": options.quick,
        "sections": sections,
    }
    print(report.describe_run(describe_machine(), settings), flush=True)
    measurements, notes = _measure(settings)
    if options.json is not None:
        save_json(options.json, describe_machine(), settings, measurements, notes)
        print(f"\nMeasurements written to {options.json}.")
    if options.plot is not None:
        plot.save_plot(options.plot, measurements)
        print(f"\nPlot written to {options.plot}.")


def _threads(wanted: int | None) -> int:
    numba = importlib.import_module("numba")
    most: int = numba.config.NUMBA_NUM_THREADS
    if wanted is None:
        return most
    if wanted > most:
        raise BenchError(
            f"--threads {wanted}: Numba has {most} of {os.cpu_count()} processors' threads; "
            "set NUMBA_NUM_THREADS for more"
        )
    return wanted


def _measure(settings: dict[str, Any]) -> tuple[list[Measurement], list[str]]:
    tasks = {name: tasks_of(name, quick=settings["quick"]) for name in settings["sections"]}
    peers = [peer for peer in PEERS if not peer.missing] if "peers" in tasks else []
    notes: list[str] = []
    measurements: list[Measurement] = []
    total = sum(len(tasks[name]) * (len(peers) if name == "peers" else 1) for name in tasks)
    with progress_bar(max(1, total), "measuring", "calls") as bar:

        def note(text: str) -> None:
            notes.append(text)
            bar.line(text)

        for name, of_section in tasks.items():
            if name == "peers":
                measurements += _contest(of_section, peers, settings, bar, note)
            else:
                measurements += _section(name, of_section, settings, bar, note)
    return measurements, notes


def _section(
    name: str,
    tasks: Sequence[Task],
    settings: dict[str, Any],
    bar: Progress,
    note: Callable[[str], None],
) -> Iterator[Measurement]:
    for line in report.header(name):
        bar.line(line)
    if name == "threads" and settings["threads"] == 1:
        bar.advance(len(tasks))
        note("skipped: there is one thread only")
        return
    arena = Arena(settings["threads"], settings["rounds"])
    for case, of_case in groupby(tasks, key=lambda task: task.case):
        group = list(of_case)
        if not is_available(case.dtype):
            bar.advance(len(group))
            note(f"{case.dtype}: skipped, ml_dtypes is not installed")
            continue
        measured = []
        for task in group:
            measured.append(arena.measure(task))
            bar.advance(1)
        for line in report.rows(name, measured):
            bar.line(line)
        yield from measured


def _contest(
    tasks: Sequence[Task],
    peers: Sequence[Peer],
    settings: dict[str, Any],
    bar: Progress,
    note: Callable[[str], None],
) -> list[Measurement]:
    *above, titles = report.header("peers", peers)
    for line in above:
        bar.line(line)
    for peer in PEERS:
        if peer.missing:
            note(f"{peer.name}: {peer.title} skipped, {', '.join(peer.missing)} not installed")
    if not peers:
        return []
    bar.line(titles)
    threads, rounds = settings["threads"], settings["rounds"]
    measurements, failures = compete(peers, tasks, threads, rounds, lambda: bar.advance(1))
    for line in report.peer_rows(measurements, peers):
        bar.line(line)
    for failure in failures:
        note(failure)
    return measurements
