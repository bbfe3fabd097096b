"""The error of gradients in each dtype, by the number of classes."""

import inks
import ml_dtypes
import numpy as np
from matplotlib.figure import Figure

import numba_xent as xent

COUNTS = (2, 5, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000)
LOGITS = 200_000
DTYPES = (
    (np.float64, inks.GREEN, "o"),
    (np.float32, inks.BLUE, "s"),
    (np.float16, inks.ORANGE, "^"),
    (ml_dtypes.bfloat16, inks.PURPLE, "D"),
)


def truth(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The gradient in extended precision."""
    z = logits.astype(np.longdouble)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True) - labels


def draw() -> Figure:
    """A line for each dtype."""
    rng = np.random.default_rng(0)
    gradient_of = xent.value_and_grad(xent.nn.softmax_cross_entropy_with_logits_v2)
    figure = Figure(figsize=(5.8, 3.6))
    axes = figure.add_subplot()
    for dtype, colour, marker in DTYPES:
        errors = []
        for classes in COUNTS:
            shape = (max(1, LOGITS // classes), classes)
            logits = rng.normal(0, 3, shape).astype(dtype)
            labels = rng.dirichlet(np.ones(min(classes, 50)), shape[0])
            labels = np.pad(labels, ((0, 0), (0, classes - labels.shape[1]))).astype(dtype)
            _, gradient = gradient_of(labels, logits)
            error = gradient.astype(np.longdouble) - truth(labels.astype(np.longdouble), logits)
            errors.append(float(np.abs(error).max()))
        axes.plot(COUNTS, errors, color=colour, marker=marker, label=np.dtype(dtype).name)
    axes.set(
        xscale="log", yscale="log", xlabel="classes", ylabel="largest error of a gradient",
        ylim=(1e-18, 1),
    )  # fmt: skip
    axes.grid(axis="y")
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0.05, 0.2))
    return figure
