"""What the demo says in the terminal, as text that fits into 80 columns."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from numba_xent._demo.data import Dataset, Split
from numba_xent._demo.training import Epoch, Settings

MAX_WIDTH = 80
MAX_MATRIX_CLASSES = 20
MAX_PAIRS = 10

EPOCH_HEADER = "epoch      loss   held-out accuracy"


def describe_data(dataset: Dataset) -> str:
    """Say in one line what the demo trains on."""
    shape = dataset.x.shape[1:]
    features = "x".join(str(size) for size in shape)
    return (
        f"Training on {dataset.source}: {len(dataset.y):,} examples of {features} "
        f"feature{'s' if math.prod(shape) > 1 else ''}, {len(np.unique(dataset.y)):,} classes."
    )


def describe_training(data: Split, settings: Settings, seed: int) -> str:
    """Say in one line how the demo trains."""
    return (
        f"{len(data.held_out_y):,} of them held out; "
        f"batches of {min(settings.batch_size, len(data.y)):,}, "
        f"label smoothing {settings.label_smoothing:g}, seed {seed}."
    )


def describe_first_call(seconds: float) -> str:
    """Say how long the first call of the loss took."""
    return f"First call of the loss: {seconds:.2f} s, to compile it or load it from the cache."


def epoch_line(number: int, epoch: Epoch) -> str:
    """Return the row of one epoch, under `EPOCH_HEADER`."""
    return f"{number:5d}  {epoch.loss:8.4f}   {epoch.held_out_accuracy:15.2%}"


def describe_result(right: int, total: int, trained: int, seconds: float) -> str:
    """Say how well and how fast the demo learned."""
    rate = float(f"{trained / seconds:.3g}")  # no more digits than a timing has
    return (
        f"Held-out accuracy: {right / total:.2%} ({right:,} of {total:,} right).\n"
        f"Speed: {rate:,.0f} examples per second ({trained:,} in {seconds:.3f} s), "
        "compilation aside."
    )


def confusion_report(true: NDArray[np.intp], predicted: NDArray[np.intp]) -> str:
    """Show which classes are taken for which others.

    Parameters
    ----------
    true, predicted : ndarray of intp
        Labels of the held-out examples.

    Returns
    -------
    str
        The confusion matrix, or the most confused pairs where it would be too wide to read.
    """
    classes = np.union1d(true, predicted)
    if len(classes) <= MAX_MATRIX_CLASSES:
        for gap in (2, 1):
            matrix = _confusion_matrix(classes, true, predicted, gap)
            if max(len(line) for line in matrix) <= MAX_WIDTH:
                title = "Confusion matrix (a row per true class, a column per predicted one):"
                return "\n".join([title, "", *matrix])
    return _most_confused_pairs(true, predicted)


def _confusion_matrix(
    classes: NDArray[np.intp], true: NDArray[np.intp], predicted: NDArray[np.intp], gap: int
) -> list[str]:
    size = len(classes)
    cells = np.searchsorted(classes, true) * size + np.searchsorted(classes, predicted)
    counts = np.bincount(cells, minlength=size * size).reshape(size, size)

    label_width = len(str(classes[-1])) + 2
    width = max(len(str(counts.max())), len(str(classes[-1]))) + gap
    header = " " * label_width + "".join(f"{label:{width}d}" for label in classes) + "   right"
    lines = [header]
    for label, row, right in zip(classes, counts, counts.diagonal(), strict=True):
        # Dots for zeros: the mistakes stand out.
        numbers = "".join(f"{count or '.':>{width}}" for count in row)
        share = f"{right / row.sum():8.1%}" if row.sum() else ""
        lines.append(f"{label:{label_width}d}{numbers}{share}")
    return lines


def _most_confused_pairs(true: NDArray[np.intp], predicted: NDArray[np.intp]) -> str:
    wrong = true != predicted
    pairs, counts = np.unique(np.stack([true[wrong], predicted[wrong]]), axis=1, return_counts=True)
    if not counts.size:
        return "No held-out example was taken for another class."
    order = np.argsort(-counts, kind="stable")[:MAX_PAIRS]
    width = max(len(str(pairs[:, order].max())), len("predicted"))
    lines = [
        "Most confused pairs of classes:",
        "",
        f"{'true':>{width}}  {'predicted':>{width}}  examples",
    ]
    lines += [f"{pairs[0, i]:{width}d}  {pairs[1, i]:{width}d}  {counts[i]:8,d}" for i in order]
    return "\n".join(lines)
