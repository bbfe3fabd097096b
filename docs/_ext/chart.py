"""The charts of what ``python -m numba_xent bench`` measured, and the data they show.

The benchmark's own chart draws the same (``numba_xent/_bench/plot.py``); this arranges it for pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inks
from matplotlib.figure import Figure

from numba_xent._bench import plot
from numba_xent._bench.results import Measurement, load_json

FOLDER = Path(__file__).resolve().parents[1] / "performance"
DATA = FOLDER / "measurements.json"
LATENCY = 1 << 12
"""Problems with fewer logits measure the cost of a call, and are left out of the headline."""


def digest() -> str:
    """What tells the data from any other."""
    return hashlib.sha256(DATA.read_bytes()).hexdigest()


def of_sections(*sections: str) -> list[Measurement]:
    """The measurements of some sections."""
    return [m for m in load_json(DATA).measurements if m.task.section in sections]


def _figure(rows: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.8, 1.3 + 0.3 * rows), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure, columns: int) -> None:
    """One legend for all panels, each name once."""
    named = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named, loc="outside lower center", ncols=columns, fontsize=9.5)


def _nothing(axes: Any) -> None:
    """Say that a section was not measured."""
    axes.text(0.5, 0.5, "not measured in this run", ha="center", transform=axes.transAxes)
    axes.set_axis_off()


def fractions(*sections: str) -> Figure:
    """Bars: the fraction of the speed of memory, by problem."""
    measured = [m for m in of_sections(*sections) if "probe" in m.speed]
    figure, axes = _figure(2 * len({m.task.case for m in measured}))
    if not measured:
        _nothing(axes)
        return figure
    plot.draw_fractions(axes, measured)
    axes.set_xlabel("fraction of the speed of memory")
    _legend(figure, 2)
    return figure


def few() -> Figure:
    """Lines: the fraction of the speed of memory, by the number of classes."""
    measured = of_sections("few")
    figure, axes = _figure(10)
    if not measured:
        _nothing(axes)
        return figure
    plot.draw_few(axes, measured)
    _legend(figure, 2)
    return figure


def others(panels: dict[str, Callable[[Measurement], bool]]) -> Figure:
    """Dots: how long other libraries take, in units of our own time.

    Parameters
    ----------
    panels : dict
        For the title of each panel, which measurements of the section peers it shows.
    """
    saved = load_json(DATA)
    peers = [m for m in saved.measurements if m.task.section == "peers"]
    chosen = {title: [m for m in peers if shown(m)] for title, shown in panels.items()}
    rows = {title: list(dict.fromkeys(m.task.case for m in chosen[title])) for title in panels}
    figure = Figure(
        figsize=(5.8, 1.5 + sum(0.4 + 0.32 * len(r) for r in rows.values())), layout="constrained"
    )
    all_axes = figure.subplots(
        len(panels),
        1,
        sharex=True,
        squeeze=False,
        height_ratios=[1 + len(r) for r in rows.values()],
    )[:, 0]
    if not peers:
        _nothing(all_axes[0])
        return figure
    for axes, title in zip(all_axes, panels, strict=True):
        plot.draw_peers(axes, chosen[title], lambda task: task.case.name)
        for line in axes.lines:  # what overlaps is told apart
            line.set(markeredgecolor=inks.PAPER, markeredgewidth=0.6)
        axes.set_title(title)
    shown = [m for measured in chosen.values() for m in measured]
    plot.label_times(all_axes[-1], [m.speed[peer].median for m in shown for peer in m.speed])
    all_axes[-1].set_xlabel("time of other libraries, numba_xent = 1 (logarithmic)")
    if saved.settings["quick"]:
        figure.suptitle(
            "quick run of small problems, not to be quoted", color=inks.RED, fontsize=11
        )
    _legend(figure, 4)
    return figure


def headline() -> Figure:
    """Loss and gradient against other libraries, one label per class."""
    return others(
        {
            "loss and gradient, one label per class": lambda m: (
                m.task.gradient and m.task.labels == "dense" and m.task.case.logits > LATENCY
            )
        }
    )
