"""The charts of what ``python -m numba_xent bench`` measured, and the data they show."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import inks
from matplotlib.figure import Figure

from numba_xent._bench.peers import PEERS
from numba_xent._bench.report import PIVOT
from numba_xent._bench.results import Measurement, load_json

FOLDER = Path(__file__).resolve().parents[1] / "performance"
DATA = FOLDER / "measurements.json"
LATENCY = 1 << 12
"""Problems with fewer logits measure the cost of a call, and are left out of the headline."""

COLOURS = dict(zip(PIVOT, (inks.TEAL, inks.BLUE, inks.BROWN, inks.ORANGE), strict=True))
OTHERS = dict(
    zip((peer.name for peer in PEERS), (*inks.SERIES[1:], inks.MUTED), strict=True)
)
MARKERS = dict(zip(OTHERS, "os^DvP*", strict=True))


def digest() -> str:
    """What tells the data from any other."""
    return hashlib.sha256(DATA.read_bytes()).hexdigest()


def of_sections(*sections: str) -> list[Measurement]:
    """The measurements of some sections."""
    return [m for m in load_json(DATA).measurements if m.task.section in sections]


def _figure(rows: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.8, 1.3 + 0.3 * rows), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure, axes: Any, columns: int) -> None:
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9.5
    )


def _nothing(axes: Any) -> bool:
    """Say that a section was not measured."""
    axes.text(0.5, 0.5, "not measured in this run", ha="center", transform=axes.transAxes)
    axes.set_axis_off()
    return True


def fractions(*sections: str) -> Figure:
    """Bars: the fraction of the speed of memory, by problem."""
    measured = [m for m in of_sections(*sections) if "probe" in m.speed]
    cases = list(dict.fromkeys(m.task.case for m in measured))
    figure, axes = _figure(2 * len(cases))
    if not measured:
        _nothing(axes)
        return figure
    height = 0.8 / len(PIVOT)
    for i, key in enumerate(PIVOT):
        chosen = [m for m in measured if (m.task.labels, m.task.of) == key]
        axes.barh(
            [cases.index(m.task.case) + (i - 1.5) * height for m in chosen],
            [m.speed["probe"].median for m in chosen],
            height * 0.9,
            color=COLOURS[key],
            label=" ".join(key),
        )
    names = [case.name + ("" if case.dtype == "float32" else f"\n{case.dtype}") for case in cases]
    axes.set_yticks(range(len(cases)), names)
    axes.invert_yaxis()
    axes.axvline(1, color=inks.INK, linestyle="--", linewidth=1)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set(xlabel="fraction of the speed of memory", xlim=(0, None))
    _legend(figure, axes, 2)
    return figure


def few() -> Figure:
    """Lines: the fraction of the speed of memory, by the number of classes."""
    measured = of_sections("few")
    figure, axes = _figure(8)
    if not measured:
        _nothing(axes)
        return figure
    for key, style in zip(PIVOT, ("-", "-", "--", "--"), strict=True):
        chosen = [m for m in measured if (m.task.labels, m.task.of) == key]
        axes.plot(
            [m.task.case.classes for m in chosen],
            [m.speed["probe"].median for m in chosen],
            style,
            color=COLOURS[key],
            marker=".",
            label=" ".join(key),
        )
    axes.axhline(1, color=inks.INK, linestyle="--", linewidth=1)
    axes.grid(axis="y")
    axes.set(xlabel="classes", ylabel="fraction of the speed of memory")
    axes.set_ylim(bottom=0)
    _legend(figure, axes, 2)
    return figure


def others(chosen: Callable[[Measurement], bool], name: Callable[[Measurement], str]) -> Figure:
    """Dots: how long other libraries take, in units of our own time.

    Parameters
    ----------
    chosen : callable
        Which measurements of the section peers.
    name : callable
        What stands beside the dots of a measurement.
    """
    measured = [m for m in of_sections("peers") if chosen(m)]
    rows = list(dict.fromkeys(name(m) for m in measured))
    figure, axes = _figure(len(rows))
    if not measured:
        _nothing(axes)
        return figure
    for peer in (peer for peer in OTHERS if any(peer in m.speed for m in measured)):
        points = [m for m in measured if peer in m.speed]
        axes.plot(
            [m.speed[peer].median for m in points],
            [rows.index(name(m)) for m in points],
            MARKERS[peer],
            color=OTHERS[peer],
            markersize=6.5,
            markeredgecolor=inks.PAPER,
            markeredgewidth=0.6,
            label=peer,
        )
    axes.axvline(1, color=inks.BLUE, linewidth=2.5, label="numba_xent", zorder=1)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain_ticks(axes, [m.speed[peer].median for m in measured for peer in m.speed])
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("time of other libraries, numba_xent = 1 (logarithmic)")
    _legend(figure, axes, 4)
    return figure


def _plain_ticks(axes: Any, values: Sequence[float]) -> None:
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    low, high = min(0.7, *values) * 0.9, max(values) * 1.15
    shown = [x for x in ticks if low <= x <= high]
    axes.set_xlim(low, high)
    axes.set_xticks(shown, [f"{x:g}x" for x in shown])
    axes.minorticks_off()


def headline() -> Figure:
    """Loss and gradient against other libraries, one label per class."""
    return others(
        lambda m: m.task.gradient and m.task.labels == "dense" and m.task.case.logits > LATENCY,
        lambda m: m.task.case.name,
    )
