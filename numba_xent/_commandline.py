"""What the options of several commands have in common: numbers, and files to write."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
from typing import Any


def positive_int(text: str) -> int:
    """Read an option that is a whole number of at least 1."""
    return _whole_number(text, at_least=1)


def natural_int(text: str) -> int:
    """Read an option that is a whole number of at least 0."""
    return _whole_number(text, at_least=0)


def _whole_number(text: str, *, at_least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = at_least - 1
    if value < at_least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {at_least}")
    return value


def problem_with_file(path: Path, suffix: str) -> str | None:
    """Say why a file cannot be written, as far as that can be seen without writing it.

    Parameters
    ----------
    path : Path
        The file.
    suffix : str
        How its name must end.

    Returns
    -------
    str or None
        What the user must know, if there is anything wrong.
    """
    try:
        if path.is_dir():
            return "this is a folder"
        if path.suffix.lower() != suffix:
            return f"the name must end in {suffix}"
        if not path.parent.is_dir():
            return f"there is no folder {path.parent}"
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            return "no permission to write there"
    except OSError as error:
        return error.strerror or str(error)
    return None


def problem_with_plot(path: Path) -> str | None:
    """Say why ``--plot`` cannot draw into a PNG file; None if nothing speaks against it."""
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        return '--plot needs matplotlib, which is not installed: pip install "numba_xent[plot]"'
    problem = problem_with_file(path, ".png")
    return problem and f"--plot {path}: {problem}"


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of matplotlib, that many inches large.

    It is made without pyplot, which would need a display or change global state.
    """
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(width, height), layout="constrained"
    )
    importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure
