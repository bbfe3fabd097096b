"""The demo's examples: read and checked, split in two, and standardised."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from numba_xent._demo import DemoError

DIGITS_FILE = Path(__file__).with_name("digits.npz")
HELD_OUT_SHARE = 0.2
MAX_CLASSES = 10_000  # the weights and one-hot labels grow with the largest label
MAX_DEVIATIONS = 5  # standardised features are clipped here, so that no outlier rules the training


@dataclass(frozen=True)
class Dataset:
    """Labelled examples.

    Attributes
    ----------
    source : str
        Where they come from, to show to the user.
    noun : str
        What to call one example.
    x : ndarray
        Features, any real dtype, shape ``[n, ...]``.
    y : ndarray of intp
        Labels, shape ``[n]``, each of them in ``range(classes)``.
    classes : int
        One more than the largest label.
    """

    source: str
    noun: str
    x: NDArray[Any]
    y: NDArray[np.intp]
    classes: int


@dataclass(frozen=True)
class Split:
    """A dataset ready to train on, a part of it held out.

    Attributes
    ----------
    x, held_out_x : ndarray of float32
        Standardised features, one row per example, with a last column of ones for the bias.
    y, held_out_y : ndarray of intp
        Labels.
    held_out : ndarray of intp
        Where the held-out examples are in the dataset.
    classes : int
        Number of classes.
    """

    x: NDArray[np.float32]
    y: NDArray[np.intp]
    held_out_x: NDArray[np.float32]
    held_out_y: NDArray[np.intp]
    held_out: NDArray[np.intp]
    classes: int


def load_digits() -> Dataset:
    """Read the bundled handwritten digits."""
    return _load(DIGITS_FILE, source="the bundled digits", noun="digit")


def load_npz(path: Path) -> Dataset:
    """Read a user's own examples: arrays ``x`` and ``y`` of an ``.npz`` file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Dataset
        Its examples, checked.

    Raises
    ------
    DemoError
        If the file cannot be read, or cannot be trained on.
    """
    try:
        return _load(path, source=path.name, noun="example")
    except DemoError as error:
        raise DemoError(f"{path}: {error}") from error


def split(dataset: Dataset, rng: np.random.Generator) -> Split:
    """Hold out a fifth of every class and standardise all features.

    A class of two examples or more is on both sides; a class of one is only trained on.

    Parameters
    ----------
    dataset : Dataset
        All examples.
    rng : numpy.random.Generator
        Chooses the examples to hold out.

    Returns
    -------
    Split
        The two parts.

    Raises
    ------
    DemoError
        If no class has two examples.
    """
    y = dataset.y
    shuffled = rng.permutation(len(y))
    by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
    sizes = np.bincount(y)
    rank_in_class = np.arange(len(y)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = np.maximum(np.rint(sizes * HELD_OUT_SHARE).astype(np.intp), 1)
    is_held_out = rank_in_class < np.repeat(np.minimum(wanted, sizes - 1), sizes)

    held_out, train = by_class[is_held_out], by_class[~is_held_out]
    if not held_out.size:
        raise DemoError(
            f"{dataset.source}: too few examples to hold any out, no label occurs twice"
        )

    features = dataset.x.reshape(len(y), -1)
    x, held_out_x = _standardise(features[train], features[held_out])
    return Split(x, y[train], held_out_x, y[held_out], held_out, dataset.classes)


def _load(path: Path, *, source: str, noun: str) -> Dataset:
    x, y = _read_arrays(path)
    _check_features(x)
    _check_labels(y)
    if len(x) != len(y):
        raise DemoError(f"'x' has {len(x):,} examples but 'y' has {len(y):,} labels")
    labels = y.astype(np.intp)
    return Dataset(source, noun, x, labels, classes=int(labels.max()) + 1)


def _read_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        # Opening a named pipe would wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DemoError("this is not a file" + (" but a folder" if path.is_dir() else ""))
        with path.open("rb") as file:
            return _read_archive(file)
    except OSError as error:
        raise DemoError(error.strerror or "cannot be read") from error


def _read_archive(file: BinaryIO) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        archive = np.load(file, allow_pickle=False)
    except Exception as error:  # zipfile and NumPy raise a dozen types for a damaged archive
        raise DemoError("not an .npz file, or a damaged one") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DemoError("a single array; numpy.savez writes 'x' and 'y' into one .npz file")
    with archive:
        return _read_array(archive, "x"), _read_array(archive, "y")


def _read_array(archive: np.lib.npyio.NpzFile, name: str) -> NDArray[Any]:
    if name not in archive:
        found = ", ".join(repr(other) for other in archive.files[:8]) or "nothing"
        raise DemoError(f"there is no array {name!r}; the file holds {found}")
    try:
        array = archive[name]
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise DemoError(
            f"{name!r} is damaged, or holds Python objects, which are never loaded"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DemoError(f"{name!r} is not a NumPy array")
    return array


def _check_features(x: NDArray[Any]) -> None:
    if x.dtype.kind not in "biuf":
        raise DemoError(f"'x' is of type {x.dtype}; features must be real numbers")
    if not x.shape[1:]:
        raise DemoError(f"'x' has shape {x.shape}; it must be [n, ...features]")
    if x.size == 0:
        raise DemoError(f"'x' is empty, its shape is {x.shape}")
    if not np.isfinite(x).all():
        raise DemoError("'x' has NaN or infinite values")
    largest = float(np.finfo(np.float32).max)
    if float(x.max()) > largest or float(x.min()) < -largest:
        raise DemoError(f"'x' has values that float32 cannot hold, beyond {largest:.1e}")


def _check_labels(y: NDArray[Any]) -> None:
    if y.ndim != 1:
        raise DemoError(f"'y' has shape {y.shape}; it must be [n], one integer label per example")
    if y.dtype.kind not in "iu":
        raise DemoError(
            f"'y' is of type {y.dtype}; labels must be of an integer type, even if they are whole"
        )
    if y.size == 0:
        raise DemoError("'y' is empty")
    smallest, largest = int(y.min()), int(y.max())
    if smallest < 0:
        raise DemoError(f"'y' has the label {smallest}; labels must be 0, 1, 2, ...")
    if largest >= MAX_CLASSES:
        raise DemoError(f"'y' has the label {largest}; labels must be below {MAX_CLASSES:,}")
    if smallest == largest:
        raise DemoError(f"all labels are {smallest}; at least two classes are needed")


def _standardise(
    train: NDArray[Any], held_out: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shift and scale both parts by the training part's mean and deviation, per feature."""
    mean = train.mean(axis=0, dtype=np.float64)
    deviation = train.std(axis=0, dtype=np.float64)
    # A feature that never changes says nothing: all zeros. Its deviation may be rounding noise.
    varies = (train.max(axis=0) > train.min(axis=0)) & (deviation > 0)

    def apply(features: NDArray[Any]) -> NDArray[np.float32]:
        out = np.zeros((len(features), features.shape[1] + 1), np.float32)
        scaled = (features[:, varies] - mean[varies]) / deviation[varies]
        out[:, :-1][:, varies] = np.clip(scaled, -MAX_DEVIATIONS, MAX_DEVIATIONS)
        out[:, -1] = 1
        return out

    return apply(train), apply(held_out)
