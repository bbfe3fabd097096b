"""A progress bar below lines of text: tqdm where it is installed, else a plain one.

The bar goes to stderr and only if that is a terminal; the lines go to stdout. So neither spoils
the other, nor a file that either is redirected to.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

BAR_WIDTH = 40


class Progress(Protocol):
    """What is done so far, shown as it changes."""

    def advance(self, amount: int) -> None:
        """Count some more as done."""

    def line(self, text: str) -> None:
        """Print a line of text above the bar."""

    def close(self) -> None:
        """Wipe the bar away."""


@contextmanager
def progress_bar(total: int, task: str, unit: str) -> Iterator[Progress]:
    """Show a progress bar for the length of a ``with`` block.

    Parameters
    ----------
    total : int
        How much there is to do.
    task : str
        What is being done: one word before the bar.
    unit : str
        What is counted.

    Yields
    ------
    Progress
        The bar.
    """
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        tqdm = None
    bar: Progress = _PlainBar(total, task) if tqdm is None else _TqdmBar(tqdm, total, task, unit)
    try:
        yield bar
    finally:
        bar.close()


class _TqdmBar:
    def __init__(self, tqdm: Any, total: int, task: str, unit: str) -> None:
        self._bar = tqdm(
            total=total,
            desc=task,
            unit=f" {unit}",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
            disable=None,  # which means: unless the file is a terminal
        )

    def advance(self, amount: int) -> None:
        self._bar.update(amount)

    def line(self, text: str) -> None:
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self._bar.close()


class _PlainBar:
    def __init__(self, total: int, task: str) -> None:
        self._total = total
        self._task = task
        self._done = 0
        self._shown = ""
        self._visible = sys.stderr.isatty()

    def advance(self, amount: int) -> None:
        self._done += amount
        self._show(self._text())

    def line(self, text: str) -> None:
        bar = self._shown
        self._show("")
        print(text, flush=True)
        self._show(bar)

    def close(self) -> None:
        self._show("")

    def _text(self) -> str:
        share = self._done / self._total
        filled = int(share * BAR_WIDTH)
        return f"{self._task} [{'#' * filled:<{BAR_WIDTH}}] {share:4.0%}"

    def _show(self, text: str) -> None:
        if self._visible and text != self._shown:
            # Spaces wipe what the new text does not cover, on any kind of terminal.
            covering = text.ljust(len(self._shown))
            print(f"\r{covering}", end="" if text else "\r", file=sys.stderr, flush=True)
            self._shown = text
