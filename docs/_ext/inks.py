"""The colours and the style of every picture, and how it is saved for light and dark pages.

A picture is drawn once. Its inks (text, lines, grids, paper) are replaced for dark pages; the
colours of data are readable on both.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK, MUTED, FAINT, PAPER = "#24292f", "#6b7480", "#d5dbe1", "#fffffe"
"""What is not data, as it is on light pages."""

ON_DARK = {INK: "#e6edf3", MUTED: "#9aa5b1", FAINT: "#3d444d", PAPER: "#14181e"}

BLUE, ORANGE, GREEN = "#3b7dd8", "#d9722e", "#2b9a66"
PURPLE, RED, BROWN, TEAL = "#a35fc4", "#d64550", "#9a7b4f", "#2a94a8"
"""Colours of data."""

SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, BROWN, TEAL)

STYLE: dict[str, Any] = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": False,
    "axes.labelcolor": INK,
    "axes.prop_cycle": mpl.cycler(color=SERIES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "figure.facecolor": "none",
    "figure.figsize": (5.8, 3.4),
    "figure.constrained_layout.use": True,
    "font.size": 11.5,
    "grid.color": FAINT,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "savefig.facecolor": "none",
    "svg.hashsalt": "numba_xent",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


def save(figure: Figure, stem: Path, note: str = "") -> tuple[Path, Path]:
    """Write ``<stem>-light.svg`` and ``<stem>-dark.svg``, with a note that nobody sees.

    Parameters
    ----------
    figure : Figure
        Drawn under `STYLE`.
    stem : Path
        The path without its ending.
    note : str, optional
        Stored as the description in the file.

    Returns
    -------
    tuple of Path
        The two files.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Description": note})
    light = dark = buffer.getvalue()
    for ink, on_dark in ON_DARK.items():
        dark = dark.replace(ink, on_dark)
    paths = (stem.with_name(f"{stem.name}-light.svg"), stem.with_name(f"{stem.name}-dark.svg"))
    stem.parent.mkdir(parents=True, exist_ok=True)
    for path, text in zip(paths, (light, dark), strict=True):
        path.write_text(text, "utf-8")
    return paths
