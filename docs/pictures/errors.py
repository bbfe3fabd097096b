"""The error of float32 losses, by the size of the loss: ours and two textbook formulas."""

import inks
import numpy as np
from matplotlib.figure import Figure

import numba_xent as xent

EXAMPLES, CLASSES = 4000, 10


def _running_median(values: np.ndarray, window: int = 201) -> np.ndarray:
    padded = np.pad(values, window // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1)


def draw() -> Figure:
    """Dots, one for each example and formula."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(EXAMPLES, CLASSES)).astype(np.float32)
    logits[:, 0] += np.linspace(-4, 45, EXAMPLES).astype(np.float32)
    labels = np.zeros(EXAMPLES, np.int64)

    below = logits.astype(np.float64) - logits[:, :1]
    truth = np.log1p(np.exp(below[:, 1:]).sum(axis=1))
    ulp = np.spacing(truth.astype(np.float32)).astype(np.float64)

    with np.errstate(divide="ignore", over="ignore"):
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        of_softmax = -np.log(p[:, 0])
    m = logits.max(axis=1)
    of_sum = (m + np.log(np.exp(logits - m[:, None]).sum(axis=1))) - logits[:, 0]
    ours = xent.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)

    figure = Figure(figsize=(5.8, 3.8))
    axes = figure.add_subplot()
    for name, losses, colour in (
        ("-log(softmax)", of_softmax, inks.ORANGE),
        ("m + log(sum) - z", of_sum, inks.PURPLE),
        ("numba_xent", ours, inks.BLUE),
    ):
        error = np.abs(losses.astype(np.float64) - truth) / ulp
        axes.plot(truth, np.maximum(error, 0.01), ".", markersize=2.5, color=colour, label=name)
    # sum |z dL/dz| / L, with dL/dz = p for the other classes and p - 1 for the label's
    p = np.exp(below[:, 1:] - truth[:, None])
    condition = (p * np.abs(logits[:, 1:])).sum(axis=1) + np.abs(logits[:, 0]) * -np.expm1(-truth)
    condition /= truth
    order = np.argsort(truth)
    axes.plot(
        truth[order],
        2 * np.maximum(1, _running_median(condition[order])),
        "--",
        color=inks.INK,
        linewidth=1,
        label="promised",
    )
    axes.set(xscale="log", yscale="log", xlabel="loss", ylabel="error, in units in the last place")
    axes.set_yticks((0.01, 1, 100, 1e4, 1e6), ("0", "1", "100", "10⁴", "10⁶"))
    axes.grid()
    axes.legend(markerscale=4, loc="center left", bbox_to_anchor=(0, 0.66))
    return figure
