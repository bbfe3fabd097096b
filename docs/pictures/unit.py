"""What is done with the chunks of a unit, and when."""

import inks
from matplotlib.figure import Figure

CHUNKS = 4


def draw() -> Figure:
    """Three tracks over time."""
    figure = Figure(figsize=(5.8, 2.9))
    axes = figure.add_subplot()
    tracks = ("maximum", "exponentials, sums", "losses", "gradient")

    def box(track: int, start: float, text: str, colour: str, width: float = 0.94) -> None:
        y = len(tracks) - 1 - track
        axes.barh(y, width, 0.6, left=start, color=colour)
        axes.text(start + width / 2, y, text, ha="center", va="center", color="white", fontsize=9.5)

    for i in range(CHUNKS):
        box(0, i, f"{i + 1}", inks.ORANGE)
        box(1, i + 1, f"{i + 1}", inks.BLUE)
        box(3, CHUNKS + 1.6 + i / 2, f"{i + 1}", inks.GREEN, 0.46)
    box(0, CHUNKS, "next", inks.BROWN)
    box(2, CHUNKS + 1, "", inks.PURPLE, 0.54)
    box(1, CHUNKS + 1.6 + CHUNKS / 2, "next", inks.BROWN)
    axes.set_yticks(range(len(tracks)), reversed(tracks))
    axes.set(xticks=[], xlabel="time")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure
