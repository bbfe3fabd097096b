"""Partial states of a row of logits, merged pairwise by the library's own formula."""

import inks
import numpy as np
from matplotlib.figure import Figure

from numba_xent._math.cross_entropy import State, merge

CHUNK = 4


def state_of(logits: np.ndarray) -> State:
    """The state of a few classes, without labels."""
    top = logits.max()
    rest = np.exp(logits[logits < top] - top).sum()
    zero = np.float64(0)
    count = np.float64((logits == top).sum())
    return State(
        top, count, rest, zero, zero, zero, zero, zero, zero, zero, np.float64(logits.size)
    )


def draw() -> Figure:
    """Bars of the logits above, boxes of the states below."""
    logits = np.array([0.5, 2, 1.2, 0.8, 3.5, 2.2, 3, 1.5, 1, 0.3, 0.7, 1.4, 2.5, 4.4, 2, 3.2])
    figure = Figure(figsize=(5.8, 4.6))
    above, below = figure.subplots(2, 1, gridspec_kw={"height_ratios": (1.1, 1.6)})
    colours = (inks.BLUE, inks.ORANGE, inks.GREEN, inks.PURPLE)
    states = []
    for i, colour in enumerate(colours):
        part = slice(CHUNK * i, CHUNK * (i + 1))
        above.bar(range(part.start, part.stop), logits[part], 0.8, color=colour)
        above.hlines(logits[part].max(), part.start - 0.45, part.stop - 0.55, color=inks.INK)
        states.append((CHUNK * (i + 0.5) - 0.5, state_of(logits[part]), colour))
    above.set(xlim=(-0.6, 15.6), ylabel="logit", xticks=[])
    above.set_title("each chunk against its own maximum", fontsize=10.5)
    below.set(xlim=(-0.6, 15.6), ylim=(-0.45, 2.45))
    below.set_axis_off()
    level = 2
    while states:
        for x, state, colour in states:
            below.text(
                x,
                level,
                f"m = {state.top:.1f}\ns = {state.count + state.rest:.3f}",
                ha="center",
                va="center",
                bbox={"boxstyle": "round,pad=0.35", "facecolor": inks.PAPER, "edgecolor": colour},
                zorder=3,
                fontsize=10,
            )
        merged = []
        for (xa, a, _), (xb, b, _) in zip(states[::2], states[1::2], strict=True):
            x = (xa + xb) / 2
            for start in (xa, xb):
                below.plot([start, x], [level, level - 1], color=inks.MUTED, linewidth=1, zorder=1)
            merged.append((x, merge(a, b), inks.INK))
        states, level = (merged, level - 1) if len(states) > 1 else ([], level)
        if len(states) == 1:
            (x, state, _) = states[0]
            truth = np.log(np.exp(logits).sum())
            found = state.top + np.log(state.count + state.rest)
            below.text(
                x + 2.6,
                level,
                f"m + log s = {found:.3f}\nof all at once: {truth:.3f}",
                va="center",
                fontsize=10,
            )
            below.text(
                x,
                level,
                f"m = {state.top:.1f}\ns = {state.count + state.rest:.3f}",
                ha="center",
                va="center",
                bbox={"boxstyle": "round,pad=0.35", "facecolor": inks.PAPER, "edgecolor": inks.INK},
                fontsize=10,
            )
            break
    return figure
