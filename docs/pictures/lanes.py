"""Which logits share a register: classes of one example in rows, examples of one class in columns."""

from typing import Any

import inks
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from numba_xent._cpu.vector import LANES

EXAMPLES, CLASSES, SHOWN = 6, 9, 4


def grid(axes: Any, title: str, columns: bool) -> None:
    """A batch of logits, its registers in colour, and what comes next in memory as an arrow."""
    for example in range(EXAMPLES):
        for label in range(CLASSES):
            along, across = (example, label) if columns else (label, example)
            block = along // SHOWN
            first = block == 0 and across < 3
            colour = inks.SERIES[across] if first else inks.FAINT
            axes.add_patch(
                Rectangle((label, example), 0.9, 0.9, facecolor=colour, edgecolor="none")
            )
    axes.set(xlim=(-0.2, CLASSES), ylim=(EXAMPLES, -0.2), aspect="equal", xticks=[], yticks=[])
    axes.set(xlabel="classes", ylabel="examples")
    axes.set_title(title, fontsize=10.5)
    axes.spines[:].set_visible(False)


def draw() -> Figure:
    """Rows on the left, columns on the right."""
    figure = Figure(figsize=(5.8, 2.7))
    left, right = figure.subplots(1, 2)
    grid(left, "rows: lanes are classes", columns=False)
    grid(right, "columns: lanes are examples", columns=True)
    figure.supxlabel(
        f"a colour is a register: {SHOWN} lanes are drawn, there are {LANES['float32']} of float32",
        fontsize=9.5,
    )
    return figure
