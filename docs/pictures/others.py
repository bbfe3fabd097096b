"""Time of other libraries, but for what the headline shows."""

import chart
from matplotlib.figure import Figure


def draw() -> Figure:
    """Dots for class indices and for values alone."""
    return chart.others(
        lambda m: not (m.task.gradient and m.task.labels == "dense"),
        lambda m: f"{m.task.case.name}\n{m.task.labels} {m.task.of}",
    )
