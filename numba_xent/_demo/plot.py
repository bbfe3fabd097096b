"""The demo's picture: the loss curve, and the held-out examples it gets most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numba_xent._commandline import new_figure, problem_with_plot
from numba_xent._demo import DemoError
from numba_xent._demo.data import Dataset, Split
from numba_xent._demo.training import predict, scores

ROWS, COLUMNS = 3, 4
MAX_MARKERS = 40  # more would hide the curve
BLUE, RED, GREY, LIGHT = "#1f5fa8", "#c0392b", "#777777", "#cccccc"


def check_plot(path: Path) -> None:
    """Make sure, before any work is done, that a picture can be drawn and written.

    Parameters
    ----------
    path : Path
        The file to write.

    Raises
    ------
    DemoError
        If matplotlib is missing, or the file cannot be written.
    """
    if problem := problem_with_plot(path):
        raise DemoError(problem)


def save_plot(
    path: Path,
    dataset: Dataset,
    data: Split,
    weights: NDArray[np.float32],
    *,
    losses: Sequence[float],
    smallest_loss: float,
) -> None:
    """Draw the picture into a PNG file.

    Parameters
    ----------
    path : Path
        The file to write.
    dataset : Dataset
        The examples as they were read, to show them.
    data : Split
        The examples as they were trained on.
    weights : ndarray of float32
        The trained weights.
    losses : sequence of float
        Training loss of every epoch.
    smallest_loss : float
        The loss of a perfect model.

    Raises
    ------
    DemoError
        If the file cannot be written.
    """
    figure = new_figure(10, 4.5)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # inches
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.1), wspace=0.04)
    _draw_losses(left, losses, smallest_loss)
    _draw_mistakes(right, dataset, data, weights)
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise DemoError(f"--plot {path}: {error.strerror or error}") from error


def most_confident_mistakes(
    data: Split, weights: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the held-out examples that the model is most surely wrong about.

    Parameters
    ----------
    data : Split
        The examples.
    weights : ndarray of float32
        The trained weights.
    limit : int
        How many to return at most.

    Returns
    -------
    mistakes : ndarray of intp
        Their rows in the held-out part, the worst first.
    predicted : ndarray of intp
        The classes they are taken for.
    """
    predicted = predict(weights, data.held_out_x)
    wrong = np.flatnonzero(predicted != data.held_out_y)
    logits = scores(weights, data.held_out_x[wrong])
    rows = np.arange(len(wrong))
    margin = logits[rows, predicted[wrong]] - logits[rows, data.held_out_y[wrong]]
    worst = wrong[np.argsort(-margin, kind="stable")[:limit]]
    return worst, predicted[worst]


def as_image(example: NDArray[Any]) -> NDArray[np.float64]:
    """Return one example as a picture: two dimensions stay, colours turn grey, else a strip."""
    values = example.astype(np.float64)
    match values.ndim:
        case 2:
            return values
        case 3:  # the shortest axis is that of the colours, first or last
            grey: NDArray[np.float64] = values.mean(axis=int(np.argmin(values.shape)))
            return grey
        case _:
            return values.reshape(1, -1)


def _draw_losses(panel: Any, losses: Sequence[float], smallest_loss: float) -> None:
    axes = panel.subplots()
    epochs = range(1, len(losses) + 1)
    axes.plot(
        epochs, losses, color=BLUE, marker="o" if len(losses) <= MAX_MARKERS else "", markersize=4
    )
    axes.axhline(smallest_loss, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        f"a perfect model: {smallest_loss:.3f}",
        (1, smallest_loss),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        horizontalalignment="right",
        color=GREY,
    )
    axes.set(title="Training loss", xlabel="epoch", ylabel="softmax cross-entropy")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_mistakes(panel: Any, dataset: Dataset, data: Split, weights: NDArray[np.float32]) -> None:
    mistakes, predicted = most_confident_mistakes(data, weights, ROWS * COLUMNS)
    panel.suptitle(f"Most confused {dataset.noun}s: true → predicted")
    grid = panel.subplots(ROWS, COLUMNS).ravel()
    for axes in grid[len(mistakes) :]:
        axes.set_axis_off()
    if not mistakes.size:
        panel.text(0.5, 0.5, "no mistakes", color=GREY, ha="center", va="center")
    for axes, mistake, label in zip(grid, mistakes, predicted, strict=False):
        image = as_image(dataset.x[data.held_out[mistake]])
        axes.imshow(image, cmap="gray_r", aspect="auto" if len(image) == 1 else "equal")
        axes.set_title(f"{data.held_out_y[mistake]} → {label}", color=RED)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(LIGHT)
