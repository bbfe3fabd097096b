"""The demo's model: multinomial logistic regression by gradient descent with momentum.

Matrix products go through `numpy.einsum`, which adds in one fixed order. A BLAS may add in another
order for another number of threads, and the same seed would then print other numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import numba_xent as xent
from numba_xent._demo.data import Split

MOMENTUM = 0.9
PREDICTED_AT_ONCE = 4096  # bounds the memory that held-out scores take

loss_and_gradient = xent.value_and_grad(xent.losses.softmax_cross_entropy)


@dataclass(frozen=True)
class Settings:
    """What the user chose about the training."""

    epochs: int
    batch_size: int
    label_smoothing: float


class Model(NamedTuple):
    """The weights, ``[classes, features]``, and how fast they move."""

    weights: NDArray[np.float32]
    velocity: NDArray[np.float32]


class Epoch(NamedTuple):
    """What one pass over the training examples led to."""

    model: Model
    loss: float
    held_out_accuracy: float
    seconds: float  # of training, without the accuracy


def scores(weights: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits of every class, ``[n, classes]``."""
    logits: NDArray[np.float32] = np.einsum("nf,cf->nc", x, weights)
    return logits


def predict(weights: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the most likely class of every example."""
    starts = range(0, len(x), PREDICTED_AT_ONCE)
    return np.concatenate(
        [scores(weights, x[start : start + PREDICTED_AT_ONCE]).argmax(axis=1) for start in starts]
    )


def one_hot(y: NDArray[np.intp], classes: int) -> NDArray[np.float32]:
    """Return a row per label: 1 at the label, 0 elsewhere."""
    out = np.zeros((len(y), classes), np.float32)
    out[np.arange(len(y)), y] = 1
    return out


def initial_model(data: Split) -> Model:
    """Return a model that finds all classes equally likely."""
    zeros = np.zeros((data.classes, data.x.shape[1]), np.float32)
    return Model(zeros, zeros)


def step(
    model: Model,
    x: NDArray[np.float32],
    y: NDArray[np.intp],
    *,
    learning_rate: float,
    label_smoothing: float,
) -> tuple[float, Model]:
    """Take one step of gradient descent with momentum.

    Parameters
    ----------
    model : Model
        Where to start.
    x, y : ndarray
        A mini-batch.
    learning_rate : float
        Length of the step for a gradient of length one.
    label_smoothing : float
        Passed to the loss.

    Returns
    -------
    loss : float
        Mean loss of the mini-batch, before the step.
    model : Model
        Where the step led.
    """
    onehot = one_hot(y, len(model.weights))
    logits = scores(model.weights, x)
    loss, dlogits = loss_and_gradient(onehot, logits, label_smoothing=label_smoothing)
    gradient = np.einsum("nc,nf->cf", dlogits, x)
    velocity = np.float32(MOMENTUM) * model.velocity - np.float32(learning_rate) * gradient
    return float(loss), Model(model.weights + velocity, velocity)


def safe_learning_rate(x: NDArray[np.float32]) -> float:
    """Return a rate that converges whatever the number of features.

    The loss curves by at most half the mean squared length of an example, and momentum of 0.9
    stays stable up to 3.8 over the curvature. This rate keeps to about a quarter of that.
    """
    mean_squared_length = np.einsum("nf,nf->", x, x, dtype=np.float64) / len(x)
    return float(1 / mean_squared_length)


def first_call_seconds(data: Split, settings: Settings) -> float:
    """Time a first step, thrown away: it compiles the loss, or loads it from the cache."""
    batch = slice(settings.batch_size)
    started = time.perf_counter()
    step(
        initial_model(data),
        data.x[batch],
        data.y[batch],
        learning_rate=0.0,
        label_smoothing=settings.label_smoothing,
    )
    return time.perf_counter() - started


def train(
    data: Split,
    settings: Settings,
    rng: np.random.Generator,
    on_batch: Callable[[int], None] = lambda examples: None,
) -> Iterator[Epoch]:
    """Train a model from scratch, epoch by epoch.

    Parameters
    ----------
    data : Split
        The examples.
    settings : Settings
        How long and how to train.
    rng : numpy.random.Generator
        Chooses the order of the examples.
    on_batch : callable, optional
        Called after every step with the number of examples it took.

    Yields
    ------
    Epoch
        The state of the training after one more pass over the examples.
    """
    model = initial_model(data)
    learning_rate = safe_learning_rate(data.x)
    examples = len(data.y)
    for _ in range(settings.epochs):
        started = time.perf_counter()
        order = rng.permutation(examples)
        total_loss = 0.0
        for start in range(0, examples, settings.batch_size):
            batch = order[start : start + settings.batch_size]
            loss, model = step(
                model,
                data.x[batch],
                data.y[batch],
                learning_rate=learning_rate,
                label_smoothing=settings.label_smoothing,
            )
            total_loss += loss * len(batch)
            on_batch(len(batch))
        seconds = time.perf_counter() - started
        right = predict(model.weights, data.held_out_x) == data.held_out_y
        yield Epoch(model, total_loss / examples, float(right.mean()), seconds)


def smallest_loss(label_smoothing: float, classes: int) -> float:
    """Return the loss of a perfect model: smoothed labels leave some uncertainty."""
    other = label_smoothing / classes
    label = 1 - label_smoothing + other
    return -label * math.log(label) - (classes - 1) * other * math.log(other or 1)
