"""The benchmark's chart: how close to the speed of memory, and how far from other libraries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numba_xent._bench import BenchError
from numba_xent._bench.report import PIVOT
from numba_xent._bench.results import Measurement
from numba_xent._commandline import new_figure, problem_with_plot

DRAWN = ("throughput", "halves", "few", "peers")
WIDTH = 6.0  # inches of each panel
MARKERS = "osD^vP*X"
COLOURS = dict(zip(PIVOT, ("#9dbfe3", "#1f5fa8", "#f2b8a8", "#c0392b"), strict=True))
GREY = "#777777"


def check_plot(path: Path, sections: Sequence[str]) -> None:
    """Make sure, before anything is measured, that there will be a chart.

    Parameters
    ----------
    path : Path
        The file to write.
    sections : sequence of str
        The sections that are to be measured.

    Raises
    ------
    BenchError
        If matplotlib is missing, the file cannot be written, or nothing is to be drawn in it.
    """
    if problem := problem_with_plot(path):
        raise BenchError(problem)
    if not set(sections) & set(DRAWN):
        raise BenchError(f"--plot: draws the sections {', '.join(DRAWN)}; none of them is chosen")


def save_plot(path: Path, measurements: Sequence[Measurement]) -> None:
    """Draw what was measured into a PNG file.

    Parameters
    ----------
    path : Path
        The file to write.
    measurements : sequence of Measurement
        All of them; some sections are not drawn.

    Raises
    ------
    BenchError
        If the file cannot be written.
    """
    of = {name: [m for m in measurements if m.task.section == name] for name in DRAWN}
    panels = [
        (draw, chosen)
        for draw, chosen in (
            (_draw_fractions, of["throughput"] + of["halves"]),
            (_draw_few, of["few"]),
            (_draw_peers, of["peers"]),
        )
        if chosen
    ]
    most = max((len({m.task for m in chosen}) for _, chosen in panels), default=1)
    figure = new_figure(WIDTH * max(1, len(panels)), 2 + 0.2 * min(most, 60))
    for i, (draw, chosen) in enumerate(panels):
        draw(figure.add_subplot(1, len(panels), i + 1), chosen)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise BenchError(f"--plot {path}: {error.strerror or error}") from error


def _draw_fractions(axes: Any, measurements: Sequence[Measurement]) -> None:
    cases = list(dict.fromkeys(m.task.case for m in measurements))
    height = 0.8 / len(PIVOT)
    for i, key in enumerate(PIVOT):
        chosen = [m for m in measurements if (m.task.labels, m.task.of) == key]
        axes.barh(
            [cases.index(m.task.case) + (i - 1.5) * height for m in chosen],
            [m.speed["probe"].median for m in chosen],
            height,
            color=COLOURS[key],
            label=" ".join(key),
        )
    names = [case.name + ("" if case.dtype == "float32" else f" {case.dtype}") for case in cases]
    axes.set_yticks(range(len(cases)), names)
    axes.invert_yaxis()
    axes.axvline(1, color=GREY, linestyle="--", linewidth=1)
    axes.set(title="Fraction of the speed of memory", xlim=(0, None))
    _finish(axes, columns=2)


def _draw_few(axes: Any, measurements: Sequence[Measurement]) -> None:
    for key in PIVOT:
        chosen = [m for m in measurements if (m.task.labels, m.task.of) == key]
        axes.plot(
            [m.task.case.classes for m in chosen],
            [m.speed["probe"].median for m in chosen],
            color=COLOURS[key],
            label=" ".join(key),
        )
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1)
    axes.set(title="Few classes: fraction of the speed of memory", xlabel="classes")
    axes.set_ylim(bottom=0)
    _finish(axes, columns=2)


def _draw_peers(axes: Any, measurements: Sequence[Measurement]) -> None:
    tasks = list(dict.fromkeys(m.task for m in measurements))
    peers = list(dict.fromkeys(name for m in measurements for name in m.speed))
    for peer, marker in zip(peers, MARKERS, strict=False):
        chosen = [m for m in measurements if peer in m.speed]
        axes.plot(
            [1 / m.speed[peer].median for m in chosen],
            [tasks.index(m.task) for m in chosen],
            marker,
            markersize=5,
            alpha=0.8,
            label=peer,
        )
    names = [f"{task.case.name} {task.labels} {task.of}" for task in tasks]
    axes.set_yticks(range(len(tasks)), names, fontsize="small")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color=GREY, linestyle="--", linewidth=1)
    axes.set_title("Speed of other libraries, numba_xent = 1")
    _finish(axes, columns=4)


def _finish(axes: Any, columns: int) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(
        ncols=columns,
        frameon=False,
        fontsize="small",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.06),
    )
