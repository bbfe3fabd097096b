"""The data of the demo: bundled and loaded, refused, split and standardised."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_data import X, Y, dataset

from numba_xent._demo import DemoError
from numba_xent._demo.data import load_digits, load_npz, split


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
