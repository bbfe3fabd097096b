"""The parts of the demo: data, training, report, progress bar and plot."""

from __future__ import annotations

import io
import math
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from numba_xent._demo import DemoError
from numba_xent._demo.data import Dataset, Split, load_digits, load_npz, split
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

X = np.arange(60.0).reshape(20, 3)
Y = np.arange(20) % 4


def dataset(x: Any, y: Any) -> Dataset:
    """Wrap arrays, unchecked."""
    y = np.asarray(y, np.intp)
    return Dataset("a test", "example", np.asarray(x), y, int(y.max()) + 1)


def train_digits(seed: int, epochs: int = 20) -> tuple[Split, list[float], list[float], Model]:
    """Train as the demo does; return the split, losses, accuracies and the last model."""
    rng = np.random.default_rng(seed)
    data = split(load_digits(), rng)
    history = list(train(data, Settings(epochs, 64, 0.05), rng))
    losses = [epoch.loss for epoch in history]
    return data, losses, [epoch.held_out_accuracy for epoch in history], history[-1].model


# --- data


def test_bundled_digits() -> None:
    """The file holds what UCI published: shapes, counts and sums are known."""
    digits = load_digits()
    assert digits.x.shape == (1797, 8, 8)
    assert digits.x.dtype == np.uint8
    assert digits.x.max() == 16
    assert digits.x.sum() == 561718
    assert np.bincount(digits.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.x[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


@pytest.mark.parametrize("x_type", ["?", "i1", "u8", "f2", "f4", ">f8", "g"])
@pytest.mark.parametrize("y_type", ["i1", "u8", ">i4"])
def test_load_takes_all_real_types(x_type: str, y_type: str, tmp_path: Path) -> None:
    """Any width and byte order; only the labels are converted."""
    file = tmp_path / "data.npz"
    np.savez(file, x=X.astype(x_type), y=Y.astype(y_type))
    data = load_npz(file)
    np.testing.assert_array_equal(data.x, X.astype(x_type))
    np.testing.assert_array_equal(data.y, Y)
    assert (data.classes, data.source) == (4, "data.npz")
    assert data.y.dtype == np.intp


def test_load_takes_the_largest_label(tmp_path: Path) -> None:
    """The limit itself is refused, one less is not."""
    file = tmp_path / "data.npz"
    np.savez(file, x=X, y=Y * 3333)
    assert load_npz(file).classes == 10_000


def with_value(value: float, dtype: str = "f8") -> np.ndarray[Any, Any]:
    """Return the features with one value replaced."""
    x = X.astype(dtype)
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "there is no array 'x'; the file holds nothing"),
        ({"y": Y, "images": X}, "there is no array 'x'; the file holds 'y', 'images'"),
        ({"x": X, "labels": Y}, "there is no array 'y'; the file holds 'x', 'labels'"),
        ({"x": X.astype(object), "y": Y}, "'x' is damaged, or holds Python objects"),
        ({"x": X, "y": Y.astype(object)}, "'y' is damaged, or holds Python objects"),
        ({"x": X.astype(str), "y": Y}, "'x' is of type <U32; features must be real"),
        ({"x": X.astype(complex), "y": Y}, "'x' is of type complex128; features must be real"),
        ({"x": X.astype("M8[s]"), "y": Y}, "'x' is of type datetime64[s]; features must be real"),
        ({"x": X.view("f8,f8,f8"), "y": Y}, "features must be real"),
        ({"x": X[:, 0], "y": Y}, "'x' has shape (20,); it must be [n, ...features]"),
        ({"x": np.float64(1), "y": Y}, "'x' has shape (); it must be [n, ...features]"),
        ({"x": X[:0], "y": Y[:0]}, "'x' is empty, its shape is (0, 3)"),
        ({"x": X[:, :0], "y": Y}, "'x' is empty, its shape is (20, 0)"),
        ({"x": X, "y": Y[:0]}, "'y' is empty"),
        ({"x": X, "y": Y[:19]}, "'x' has 20 examples but 'y' has 19 labels"),
        ({"x": with_value(np.nan), "y": Y}, "'x' has NaN or infinite values"),
        ({"x": with_value(-np.inf), "y": Y}, "'x' has NaN or infinite values"),
        ({"x": with_value(np.inf, "f2"), "y": Y}, "'x' has NaN or infinite values"),
        ({"x": with_value(1e39), "y": Y}, "'x' has values that float32 cannot hold"),
        ({"x": with_value(-1e300, "g"), "y": Y}, "'x' has values that float32 cannot hold"),
        ({"x": X, "y": np.eye(4)[Y]}, "'y' has shape (20, 4); it must be [n]"),
        ({"x": X, "y": np.int64(1)}, "'y' has shape (); it must be [n]"),
        ({"x": X, "y": Y.astype(float)}, "'y' is of type float64; labels must be of an integer"),
        ({"x": X, "y": Y.astype(str)}, "labels must be of an integer type"),
        ({"x": X, "y": Y == 0}, "'y' is of type bool; labels must be of an integer type"),
        ({"x": X, "y": Y - 1}, "'y' has the label -1; labels must be 0, 1, 2, ..."),
        ({"x": X, "y": Y + 9_997}, "'y' has the label 10000; labels must be below 10,000"),
        ({"x": X, "y": Y * 10**9}, "'y' has the label 3000000000; labels must be below 10,000"),
        ({"x": X, "y": Y.astype("u8") + np.uint64(2**64 - 9)}, "labels must be below 10,000"),
        ({"x": X, "y": Y * 0 + 3}, "all labels are 3; at least two classes are needed"),
    ],
)
def test_load_refuses_arrays(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Every flaw of an array has a message of one line, which names the file."""
    file = tmp_path / "data.npz"
    np.savez(file, **arrays)
    with pytest.raises(DemoError) as error:
        load_npz(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_load_refuses_files(tmp_path: Path) -> None:
    """So has every flaw of a file."""
    file = tmp_path / "data.npz"

    def message() -> str:
        with pytest.raises(DemoError) as error:
            load_npz(file)
        return str(error.value).removeprefix(f"{file}: ")

    assert message() == "No such file or directory"
    file.mkdir()
    assert message() == "this is not a file but a folder"
    file.rmdir()
    for content in (b"", b"PK\x03\x04 but no more", b"x,y\n1,2\n", b"\x80\x04N."):
        file.write_bytes(content)
        assert message() == "not an .npz file, or a damaged one"
    with file.open("wb") as stream:
        np.save(stream, X)
    assert message() == "a single array; numpy.savez writes 'x' and 'y' into one .npz file"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", "some text")
    assert message() == "'x' is not a NumPy array"


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has named pipes")
def test_load_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    """A named pipe would block until someone writes to it."""
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DemoError, match="this is not a file"):
        load_npz(tmp_path / "pipe.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_load_survives_any_damage(save: Any, tmp_path: Path) -> None:
    """A damaged file is refused, or read right where the damage is immaterial."""
    buffer = io.BytesIO()
    save(buffer, x=X, y=Y)
    whole = buffer.getvalue()
    file = tmp_path / "data.npz"
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(300):
        damaged = bytearray(whole)
        if number % 3:
            damaged[rng.integers(len(damaged))] ^= rng.integers(1, 256)
        else:
            del damaged[rng.integers(len(damaged)) :]
        file.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(load_npz(file).x, X)
        except DemoError:
            refused += 1
    assert refused > 200


# --- split and standardisation


def test_split_is_stratified_and_complete() -> None:
    """A fifth of each class, at least one of two, never the only one; no example twice."""
    y = np.repeat([0, 1, 2, 4, 5], [1, 2, 10, 100, 3])
    x = np.arange(len(y), dtype=float)[:, None]
    data = split(dataset(x, y), np.random.default_rng(0))
    assert np.bincount(data.held_out_y, minlength=6).tolist() == [0, 1, 2, 0, 20, 1]
    np.testing.assert_array_equal(y[data.held_out], data.held_out_y)
    assert len(set(data.held_out)) == len(data.held_out)
    # every example is on exactly one side: the one feature tells them apart
    assert len(np.unique(np.concatenate([data.x, data.held_out_x])[:, 0])) == len(y)
    assert len(data.x) == len(data.y)
    assert len(data.x) + len(data.held_out_x) == len(y)


def test_split_depends_on_the_seed_alone() -> None:
    """One seed, one split."""
    digits = load_digits()
    first, same, other = (split(digits, np.random.default_rng(seed)).held_out for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert set(first) != set(other)


def test_split_needs_a_label_twice() -> None:
    """Nothing can be held out if every class has one example."""
    with pytest.raises(DemoError, match="a test: too few examples to hold any out"):
        split(dataset([[1.0], [2.0], [3.0]], [0, 1, 2]), np.random.default_rng(0))


def test_features_are_standardised() -> None:
    """Constant, tiny, shifted and wild features all end up small and finite."""
    rng = np.random.default_rng(0)
    n = 1000
    x = np.stack(
        [
            rng.normal(5, 3, n),
            np.full(n, 0.1),  # constant
            1.7e9 + rng.normal(0, 1e-3, n),  # too fine for float32
            rng.normal(0, 1e-30, n),
            np.where(np.arange(n) == 17, 1e30, rng.normal(0, 1, n)),  # one wild outlier
        ],
        axis=1,
    )
    data = split(dataset(x, np.arange(n) % 2), rng)
    for part in (data.x, data.held_out_x):
        assert part.dtype == np.float32
        assert np.isfinite(part).all()
        assert np.abs(part).max() <= 5
        np.testing.assert_array_equal(part[:, 1], 0)
        np.testing.assert_array_equal(part[:, -1], 1)
    np.testing.assert_allclose(data.x.mean(axis=0)[[0, 2, 3]], 0, atol=0.01)
    np.testing.assert_allclose(data.x.std(axis=0)[[0, 2, 3]], 1, atol=0.01)


def test_standardisation_knows_nothing_of_the_held_out_part() -> None:
    """Whatever is held out, the training sees the same numbers."""
    x, y = np.random.default_rng(0).normal(size=(100, 2)), np.arange(100) % 2
    before = split(dataset(x, y), np.random.default_rng(3))
    x[before.held_out] += 1000
    after = split(dataset(x, y), np.random.default_rng(3))
    np.testing.assert_array_equal(after.x, before.x)
    np.testing.assert_array_equal(after.held_out_x[:, :-1], 5)


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
