"""The parts of the demo that use its data: training, report, progress bar and plot."""

from __future__ import annotations

import io
import math
import os
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from demo_data import X, Y, dataset

from numba_xent._demo import DemoError
from numba_xent._demo.data import Dataset, Split, load_digits, split
from numba_xent._demo.plot import (
    as_image,
    check_plot,
    most_confident_mistakes,
    save_plot,
)
from numba_xent._demo.report import confusion_report, describe_data, describe_result
from numba_xent._demo.training import (
    Model,
    Settings,
    initial_model,
    loss_and_gradient,
    one_hot,
    predict,
    scores,
    smallest_loss,
    step,
    train,
)
from numba_xent._progress import progress_bar


def train_digits(seed: int, epochs: int = 20) -> tuple[Split, list[float], list[float], Model]:
    """Train as the demo does; return the split, losses, accuracies and the last model."""
    rng = np.random.default_rng(seed)
    data = split(load_digits(), rng)
    history = list(train(data, Settings(epochs, 64, 0.05), rng))
    losses = [epoch.loss for epoch in history]
    return data, losses, [epoch.held_out_accuracy for epoch in history], history[-1].model


# --- training


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_step_is_gradient_descent_with_momentum(smoothing: float) -> None:
    """One step against the formulas in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(13, 6)).astype(np.float32)
    y = rng.integers(4, size=13)
    weights, velocity = rng.normal(size=(2, 4, 6)).astype(np.float32)

    loss, model = step(Model(weights, velocity), x, y, learning_rate=0.3, label_smoothing=smoothing)

    logits = x.astype(float) @ weights.T
    labels = np.eye(4)[y] * (1 - smoothing) + smoothing / 4
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    gradient = (np.exp(log_p) - labels).T @ x / 13
    new_velocity = 0.9 * velocity - 0.3 * gradient
    assert loss == pytest.approx(-(labels * log_p).sum(axis=1).mean(), rel=1e-5)
    np.testing.assert_allclose(model.velocity, new_velocity, atol=1e-6)
    np.testing.assert_allclose(model.weights, weights + new_velocity, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_training_learns_the_digits(seed: int) -> None:
    """Good for any seed; how good varies with the examples that are held out."""
    _, losses, accuracies, model = train_digits(seed)
    assert accuracies[-1] >= 0.94
    assert losses[-1] < 0.45 < losses[0]
    assert model.weights.dtype == np.float32


def test_training_is_repeatable() -> None:
    """The same seed gives the same bits."""
    _, losses, accuracies, model = train_digits(seed=3, epochs=2)
    _, same_losses, same_accuracies, same_model = train_digits(seed=3, epochs=2)
    assert (losses, accuracies) == (same_losses, same_accuracies)
    np.testing.assert_array_equal(model.weights, same_model.weights)
    assert train_digits(seed=4, epochs=2)[1] != losses


def test_training_takes_every_example_once_an_epoch() -> None:
    """The last batch of an epoch is what remains."""
    data = split(dataset(X, Y), np.random.default_rng(0))
    taken: list[int] = []
    epochs = list(train(data, Settings(2, 7, 0.0), np.random.default_rng(0), taken.append))
    assert taken == [7, 7, 2] * 2  # 16 examples, 4 more are held out
    assert [math.isfinite(epoch.loss) for epoch in epochs] == [True, True]


def test_first_loss_of_one_batch_is_that_of_a_guess() -> None:
    """The untrained model gives each of 4 classes the same probability."""
    data = split(dataset(X, Y), np.random.default_rng(0))
    (epoch,) = train(data, Settings(1, 1000, 0.0), np.random.default_rng(0))
    assert epoch.loss == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("features", [1, 30, 3000])
def test_training_converges_for_any_number_of_features(features: int) -> None:
    """In the worst case too, where all features say the same."""
    y = np.arange(200) % 2
    noise = np.random.default_rng(0).normal(size=200)
    x = np.repeat((y * 2 - 1 + noise)[:, None], features, axis=1)
    rng = np.random.default_rng(0)
    history = list(train(split(dataset(x, y), rng), Settings(30, 16, 0.0), rng))
    assert history[-1].loss < 0.45  # 0.37 is the least that any model reaches
    assert history[-1].held_out_accuracy > 0.7


def test_initial_model_prefers_no_class() -> None:
    """All scores are equal."""
    data = split(dataset(X, Y), np.random.default_rng(0))
    np.testing.assert_array_equal(scores(initial_model(data).weights, data.x), np.zeros((16, 4)))


def test_predict_in_blocks_is_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting the examples into blocks does not show."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(11, 5)).astype("f4"), rng.normal(size=(7, 5)).astype("f4")
    monkeypatch.setattr("numba_xent._demo.training.PREDICTED_AT_ONCE", 4)
    np.testing.assert_array_equal(predict(weights, x), (x @ weights.T).argmax(axis=1))


@pytest.mark.parametrize(("smoothing", "classes"), [(0.0, 3), (0.1, 3), (0.5, 10)])
def test_smallest_loss_is_the_loss_of_a_perfect_model(smoothing: float, classes: int) -> None:
    """A model that predicts the smoothed labels has this loss, and no gradient."""
    labels = one_hot(np.array([1]), classes)
    target = labels * (1 - smoothing) + smoothing / classes
    logits = np.log(np.maximum(target, 1e-30)).astype(np.float32)
    loss, gradient = loss_and_gradient(labels, logits, label_smoothing=smoothing)
    assert smallest_loss(smoothing, classes) == pytest.approx(loss, abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


# --- report


def test_describe_data() -> None:
    """Labels that do not occur are not counted, and one feature is singular."""
    text = describe_data(dataset(X[:, :1], Y + 1))  # label 0 does not occur
    assert text == "Training on a test: 20 examples of 1 feature, 4 classes."


@pytest.mark.parametrize(
    ("seconds", "speed"),
    [
        (0.0123456, "Speed: 81,000 examples per second (1,000 in 0.012 s), "),
        (2.5, "Speed: 400 examples per second (1,000 in 2.500 s), "),
    ],
)
def test_describe_result(seconds: float, speed: str) -> None:
    """Numbers are rounded to what a reader needs."""
    accuracy, timing = describe_result(9, 12, 1000, seconds).splitlines()
    assert accuracy == "Held-out accuracy: 75.00% (9 of 12 right)."
    assert timing.startswith(speed)


def test_confusion_matrix() -> None:
    """Dots for zeros; a class that is only predicted has no share of right ones."""
    true, predicted = np.array([0, 0, 0, 2, 2, 12]), np.array([0, 0, 2, 2, 5, 12])
    assert confusion_report(true, predicted).splitlines()[2:] == [
        "       0   2   5  12   right",
        "   0   2   1   .   .   66.7%",
        "   2   .   1   1   .   50.0%",
        "   5   .   .   .   .",
        "  12   .   .   .   1  100.0%",
    ]


@pytest.mark.parametrize(
    ("classes", "repeats", "title"),
    [
        (10, 10_000, "Confusion matrix"),
        (20, 1, "Confusion matrix"),
        (20, 99, "Confusion matrix"),
        (20, 10_000, "Most confused pairs"),  # too wide
        (21, 1, "Most confused pairs"),
        (9_999, 1, "Most confused pairs"),
    ],
)
def test_confusion_report_fits_a_terminal(classes: int, repeats: int, title: str) -> None:
    """What would be too wide becomes a list of pairs."""
    true = np.repeat(np.arange(classes), repeats)
    predicted = true.copy()
    predicted[0] = 1
    report = confusion_report(true, predicted)
    assert report.startswith(title)
    assert max(len(line) for line in report.splitlines()) <= 80


def test_most_confused_pairs_come_first() -> None:
    """Most frequent first, and nothing about the right ones."""
    true = np.arange(30)
    true = np.concatenate([true, [25, 25, 25, 7, 7]])
    predicted = np.concatenate([np.arange(30), [3, 3, 3, 1000, 1000]])
    assert confusion_report(true, predicted).splitlines()[2:] == [
        "     true  predicted  examples",
        "       25          3         3",
        "        7       1000         2",
    ]


def test_many_classes_without_mistakes() -> None:
    """There is no pair to list."""
    labels = np.arange(30)
    assert confusion_report(labels, labels) == "No held-out example was taken for another class."


# --- progress bar


class FakeTerminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Claim to be one."""
        return True


def test_plain_bar_counts_up_and_vanishes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar makes room for a line of text and leaves nothing behind."""
    terminal = FakeTerminal()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar(4, "training", "examples") as bar:
        for _ in range(4):
            bar.advance(1)
        bar.line("a line")
    frames = terminal.getvalue().split("\r")
    assert [frame[-4:] for frame in frames[1:5]] == [" 25%", " 50%", " 75%", "100%"]
    assert frames[4] == f"training [{'#' * 40}] 100%"
    assert frames[5].isspace()  # wiped for the line
    assert frames[7] == frames[4]  # and shown again below it
    assert frames[8].isspace()
    assert len(frames[8]) >= len(frames[7])
    assert frames[9] == ""
    assert capsys.readouterr().out == "a line\n"


@pytest.mark.parametrize("has_tqdm", [True, False])
def test_bars_are_silent_outside_a_terminal(
    has_tqdm: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Redirected output holds the lines alone."""
    if not has_tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress_bar(2, "training", "examples") as bar:
        bar.advance(1)
        bar.line("a line")
        bar.advance(1)
    assert capsys.readouterr() == ("a line\n", "")


# --- plot


def test_check_plot(tmp_path: Path) -> None:
    """Every obstacle is found before the training, and nothing is written yet."""
    check_plot(tmp_path / "plot.PNG")
    assert list(tmp_path.iterdir()) == []
    for path, problem in [
        (tmp_path, "this is a folder"),
        (tmp_path / "plot.pdf", "the name must end in .png"),
        (tmp_path / "none" / "plot.png", f"there is no folder {tmp_path / 'none'}"),
        (tmp_path / ("p" * 300 + ".png"), "File name too long"),
    ]:
        with pytest.raises(DemoError) as error:
            check_plot(path)
        assert str(error.value) == f"--plot {path}: {problem}"


def test_check_plot_asks_for_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old file must be writable, for a new one the folder."""
    # The super-user may write anywhere, so the answer itself is replaced.
    asked: list[Path] = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append(path))
    existing = tmp_path / "old.png"
    existing.touch()
    for path in (existing, tmp_path / "new.png"):
        with pytest.raises(DemoError, match="no permission to write there"):
            check_plot(path)
    assert asked == [existing, tmp_path]


def test_mistakes_are_sorted_by_confidence() -> None:
    """The surest mistake comes first."""
    x = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 3], [4, 0, 0]], np.float32)
    y = np.array([1, 1, 0, 2])
    data = Split(x, y, x, y, np.arange(4), 3)
    mistakes, predicted = most_confident_mistakes(data, np.eye(3, dtype=np.float32), limit=2)
    assert mistakes.tolist() == [3, 2]
    assert predicted.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [((8, 8), (8, 8)), ((3, 16, 20), (16, 20)), ((16, 20, 4), (16, 20)), ((5,), (1, 5))],
)
def test_as_image(shape: tuple[int, ...], image_shape: tuple[int, ...]) -> None:
    """Images stay, colours turn grey, anything else is a strip."""
    assert as_image(np.ones(shape, np.uint8)).shape == image_shape


@pytest.mark.parametrize("shape", [(8, 8), (64,), (2, 4, 8)])
def test_plot_has_two_panels(shape: tuple[int, ...], tmp_path: Path) -> None:
    """A curve and pictures, for every shape of features."""
    digits = load_digits()
    data, losses, _, model = train_digits(0, epochs=2)
    shaped = Dataset("a test", "digit", digits.x.reshape(-1, *shape), digits.y, 10)
    file = tmp_path / "plot.png"
    save_plot(file, shaped, data, model.weights, losses=losses, smallest_loss=0.28)
    assert _drawn(file) == (True, True)


def test_plot_without_mistakes_shows_no_examples(tmp_path: Path) -> None:
    """The right panel has its title and no picture."""
    data = split(dataset(X, Y), np.random.default_rng(0))
    easy = Split(data.x, data.y, data.x[:1], np.array([0]), np.array([0]), 4)
    file = tmp_path / "plot.png"
    weights = np.zeros((4, 4), np.float32)  # takes everything for class 0
    save_plot(file, dataset(X, Y), easy, weights, losses=[2.0, 1.0], smallest_loss=0.0)
    assert _drawn(file) == (True, False)


def _drawn(file: Path) -> tuple[bool, bool]:
    """Say whether there is a blue curve on the left, and black pixels of images on the right."""
    pixels = matplotlib.image.imread(file)[:, :, :3]
    middle = pixels.shape[1] // 2
    blue = (pixels[:, :middle, 2] - pixels[:, :middle, 0] > 0.4).sum()
    black = (pixels[:, middle:] < 0.05).all(axis=2).sum()
    return bool(blue > 500), bool(black > 5000)  # the title alone is fewer


def test_plot_that_cannot_be_written(tmp_path: Path) -> None:
    """What goes wrong at the very end is a clear error too."""
    data = split(dataset(X, Y), np.random.default_rng(0))
    with pytest.raises(DemoError, match=r"--plot .*: No such file or directory"):
        save_plot(
            tmp_path / "none" / "plot.png",
            dataset(X, Y),
            data,
            initial_model(data).weights,
            losses=[1.0],
            smallest_loss=0.0,
        )
