"""How a batch is divided among threads: by units, and a long example by pieces."""

import inks
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

ROWS, UNIT = 12, 2


def draw() -> Figure:
    """Many examples on the left, one very long one on the right."""
    figure = Figure(figsize=(5.8, 2.6))
    left, right = figure.subplots(1, 2)
    for row in range(ROWS):
        unit = row // UNIT
        thread = unit * 2 // (ROWS // UNIT)
        left.add_patch(
            Rectangle((0, row + 0.05 * (row % UNIT == 0)), 10, 0.9, color=inks.SERIES[thread])
        )
        if row % UNIT == 0:
            left.text(10.3, row + UNIT / 2, f"unit {unit + 1}", va="center", fontsize=9)
            left.axhline(row, xmax=0.78, color=inks.PAPER, linewidth=2.5)
    left.set(xlim=(0, 13), ylim=(ROWS, 0))
    left.set_title("many examples", fontsize=10.5)
    for piece in range(4):
        right.add_patch(Rectangle((piece * 2.5, 4), 2.4, 2, color=inks.SERIES[piece // 2]))
        right.text(piece * 2.5 + 1.2, 3.4, f"piece {piece + 1}", ha="center", fontsize=9)
        right.annotate(
            "",
            (5, 8.8),
            (piece * 2.5 + 1.2, 6.1),
            arrowprops={"arrowstyle": "->", "color": inks.MUTED},
        )
    right.text(5, 9.6, "states, merged in a fixed order", ha="center", fontsize=9.5)
    right.set(xlim=(-0.2, 10.2), ylim=(ROWS, 0))
    right.set_title("one very long example", fontsize=10.5)
    for axes in (left, right):
        axes.set_axis_off()
    figure.supxlabel("colours are threads", fontsize=9.5)
    return figure
