"""The benchmark's charts: how close to the speed of memory, and how far from other libraries.

What is drawn into axes of matplotlib is here; the site arranges the same in its own figures.
Fractions are drawn of what was measured against the probe, times of the section peers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numba_xent._bench import BenchError
from numba_xent._bench.cases import Case, Task
from numba_xent._bench.peers import PEERS
from numba_xent._bench.report import PIVOT
from numba_xent._bench.results import Measurement
from numba_xent._commandline import new_figure, problem_with_plot

DRAWN = ("throughput", "halves", "few", "peers")
WIDTH = 6.0  # inches of each panel
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

# Colours of data are readable on white and on black.
OURS, GREY = "#3b7dd8", "#6b7480"
COLOURS = dict(zip(PIVOT, ("#2a94a8", OURS, "#9a7b4f", "#d9722e"), strict=True))
PEER_COLOURS = ("#d9722e", "#2b9a66", "#a35fc4", "#d64550", "#9a7b4f", "#2a94a8", GREY)
STYLES = {
    peer.name: {"marker": marker, "color": colour}
    for peer, marker, colour in zip(PEERS, "os^DvP*", PEER_COLOURS, strict=True)
}
"""A mark for each of the other libraries."""


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
    draw_fractions(axes, measurements)
    axes.set(title="Fraction of the speed of memory")
    _finish(axes, columns=2)


def _draw_few(axes: Any, measurements: Sequence[Measurement]) -> None:
    draw_few(axes, measurements)
    axes.set(title="Few classes: fraction of the speed of memory", ylabel="")
    _finish(axes, columns=2)


def _draw_peers(axes: Any, measurements: Sequence[Measurement]) -> None:
    draw_peers(axes, measurements, lambda task: f"{task.case.name} {task.labels} {task.of}")
    label_times(axes, [m.speed[peer].median for m in measurements for peer in m.speed])
    axes.tick_params(axis="y", labelsize="small")
    axes.set_title("Time of other libraries, numba_xent = 1")
    _finish(axes, columns=4)


def _finish(axes: Any, columns: int) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        ncols=columns,
        frameon=False,
        fontsize="small",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.06),
    )


def draw_fractions(axes: Any, measurements: Sequence[Measurement]) -> None:
    """Bars: the fraction of the speed of memory, by problem."""
    cases = list(dict.fromkeys(m.task.case for m in measurements))
    height = 0.8 / len(PIVOT)
    for i, key in enumerate(PIVOT):
        chosen = [m for m in measurements if (m.task.labels, m.task.of) == key]
        axes.barh(
            [cases.index(m.task.case) + (i - 1.5) * height for m in chosen],
            [m.speed["probe"].median for m in chosen],
            height * 0.9,
            color=COLOURS[key],
            label=" ".join(key),
        )
    axes.set_yticks(range(len(cases)), [_name(case) for case in cases])
    axes.invert_yaxis()
    axes.axvline(1, color=GREY, linestyle="--", linewidth=1)
    axes.set_xlim(left=0)
    _grid(axes, "x")


def _name(case: Case) -> str:
    return case.name + ("" if case.dtype == "float32" else f"\n{case.dtype}")


def draw_few(axes: Any, measurements: Sequence[Measurement]) -> None:
    """Lines: the fraction of the speed of memory, by the number of classes."""
    for key, style in zip(PIVOT, ("-", "-", "--", "--"), strict=True):
        chosen = [m for m in measurements if (m.task.labels, m.task.of) == key]
        axes.plot(
            [m.task.case.classes for m in chosen],
            [m.speed["probe"].median for m in chosen],
            style,
            color=COLOURS[key],
            marker=".",
            label=" ".join(key),
        )
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel="classes", ylabel="fraction of the speed of memory")
    axes.set_ylim(bottom=0)
    _grid(axes, "y")


def draw_peers(axes: Any, measurements: Sequence[Measurement], name: Callable[[Task], str]) -> None:
    """Dots: how long other libraries take, in units of our own time.

    ``name`` gives the row of a task.
    """
    rows = list(dict.fromkeys(name(m.task) for m in measurements))
    measured = dict.fromkeys(peer for m in measurements for peer in m.speed)
    for peer in sorted(measured, key=[*STYLES, *measured].index):
        chosen = [m for m in measurements if peer in m.speed]
        axes.plot(
            [m.speed[peer].median for m in chosen],
            [rows.index(name(m.task)) for m in chosen],
            linestyle="none",
            **STYLES.get(peer, {"marker": "X", "color": GREY}),
            markersize=8,
            clip_on=False,
            label=peer,
        )
    axes.axvline(1, color=OURS, linewidth=2.5, label="numba_xent", zorder=1)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xscale("log")
    _grid(axes, "x")


def label_times(axes: Any, times: Sequence[float]) -> None:
    """Write times in units of ours as 0.5x, 1x, 2x, at an axis that shows all of them."""
    low, high = min(0.7, *times) * 0.9, max(1.0, *times) * 1.15
    shown = [x for x in TICKS if low <= x <= high]
    axes.set_xlim(low, high)
    axes.set_xticks(shown, [f"{x:g}x" for x in shown])
    axes.minorticks_off()


def _grid(axes: Any, axis: str) -> None:
    axes.grid(axis=axis)
    axes.set_axisbelow(True)
