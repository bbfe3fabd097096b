"""The fraction of the speed of memory, by the number of classes."""

import chart
from matplotlib.figure import Figure


def draw() -> Figure:
    """Lines."""
    return chart.few()
