"""Bytes that cross the bus for each float32 logit, with dense labels and a gradient."""

import inks
from matplotlib.figure import Figure

NUMBER = 4
STEPS = (
    # what NumPy does with arrays of the size of the logits: read, written (a new array is read
    # before it is written, unless its stores bypass the caches)
    ("m = z.max()", 1, 0),
    ("d = z - m", 1, 1),
    ("e = exp(d)", 1, 1),
    ("s = e.sum()", 1, 0),
    ("l * (log s - d)", 2, 1),
    (".sum()", 1, 0),
    ("p = e / s", 1, 1),
    ("p - l", 2, 1),
)


def draw() -> Figure:
    """Two stacked bars."""
    figure = Figure(figsize=(5.8, 3.5))
    axes = figure.add_subplot()
    left = 0
    for i, (text, reads, writes) in enumerate(STEPS):
        width = NUMBER * (reads + 2 * writes)
        colour = inks.SERIES[i % len(inks.SERIES)]
        axes.barh(1, width, 0.42, left=left, color=colour, edgecolor=inks.PAPER)
        axes.text(
            left + width / 2, 1.25, text, rotation=40, fontsize=9.5, family="monospace", va="bottom"
        )
        left += width
    axes.text(left + 1, 1, f"{left}", va="center")
    fused = NUMBER * 3
    axes.barh(0, fused, 0.42, color=inks.BLUE, edgecolor=inks.PAPER)
    axes.text(fused + 1, 0, f"{fused}: logits and labels in, gradient out", va="center")
    axes.set_yticks((1, 0), ("step by step", "one pass"))
    axes.set(xlabel="bytes per logit", xlim=(0, left * 1.12), ylim=(-0.4, 2.35))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure
