"""One run of the demo, from the options to the last line of its report."""

from __future__ import annotations

import argparse

import numpy as np

from numba_xent._demo import DemoError, plot, report
from numba_xent._demo.data import load_digits, load_npz, split
from numba_xent._demo.training import (
    Settings,
    first_call_seconds,
    predict,
    smallest_loss,
    train,
)
from numba_xent._progress import progress_bar


def run_demo(options: argparse.Namespace) -> None:
    """Train on what the options say and print how it goes.

    Parameters
    ----------
    options : argparse.Namespace
        The parsed options of `numba_xent._demo.options`.

    Raises
    ------
    DemoError
        If the examples or the picture's file are no good.
    """
    try:
        _run(options)
    except MemoryError as error:
        raise DemoError("not enough memory for that many examples, features and classes") from error


def _run(options: argparse.Namespace) -> None:
    if options.plot is not None:
        plot.check_plot(options.plot)
    dataset = load_digits() if options.data is None else load_npz(options.data)
    settings = Settings(options.epochs, options.batch_size, options.label_smoothing)
    rng = np.random.default_rng(options.seed)
    data = split(dataset, rng)

    print(report.describe_data(dataset))
    print(report.describe_training(data, settings, options.seed), flush=True)
    print(report.describe_first_call(first_call_seconds(data, settings)))
    print(f"\n{report.EPOCH_HEADER}", flush=True)

    losses: list[float] = []
    seconds = 0.0
    with progress_bar(len(data.y) * settings.epochs, "training", "examples") as bar:
        for epoch in train(data, settings, rng, on_batch=bar.advance):
            losses.append(epoch.loss)
            seconds += epoch.seconds
            bar.line(report.epoch_line(len(losses), epoch))

    weights = epoch.model.weights
    predicted = predict(weights, data.held_out_x)
    right = int((predicted == data.held_out_y).sum())
    trained = len(data.y) * settings.epochs
    print()
    print(report.describe_result(right, len(predicted), trained, seconds))
    print()
    print(report.confusion_report(data.held_out_y, predicted))

    if options.plot is not None:
        floor = smallest_loss(settings.label_smoothing, data.classes)
        plot.save_plot(options.plot, dataset, data, weights, losses=losses, smallest_loss=floor)
        print(f"\nPlot written to {options.plot}.")
