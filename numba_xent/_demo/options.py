"""The options of ``python -m numba_xent demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from numba_xent._commandline import natural_int, positive_int


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options to its parser."""
    parser.add_argument(
        "--epochs",
        type=positive_int,
        default=20,
        metavar="N",
        help="passes over the examples (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="examples per step (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=natural_int,
        default=0,
        metavar="N",
        help="seed of the split and of the order of the examples (default: %(default)s)",
    )
    parser.add_argument(
        "--label-smoothing",
        type=_fraction,
        default=0.05,
        metavar="P",
        help="probability spread evenly over all classes, 0 <= P < 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE.npz",
        help="your own examples: arrays 'x' [n, ...features] and 'y' [n], integer labels "
        "0, 1, 2, ... (default: the bundled 8x8 digits)",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="also draw the loss curve and the most confused examples; needs "
        'pip install "numba_xent[plot]"',
    )


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number P with 0 <= P < 1")
    return value
