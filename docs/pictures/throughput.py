"""The fraction of the speed of memory, by problem."""

import chart
from matplotlib.figure import Figure


def draw() -> Figure:
    """Bars."""
    return chart.fractions("throughput", "halves")
