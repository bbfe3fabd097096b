"""Time of other libraries, but for what the headline shows."""

import chart
from matplotlib.figure import Figure


def draw() -> Figure:
    """Dots for class indices and for values alone."""
    return chart.others(
        {
            "loss and gradient, class indices": lambda m: (
                m.task.gradient and m.task.labels == "sparse"
            ),
            "loss alone, one label per class": lambda m: (
                not m.task.gradient and m.task.labels == "dense"
            ),
            "loss alone, class indices": lambda m: (
                not m.task.gradient and m.task.labels == "sparse"
            ),
        }
    )
