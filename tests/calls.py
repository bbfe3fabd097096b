"""The public functions, a right call of each, and what is no array of numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

import numba_xent as xent

V1 = xent.nn.softmax_cross_entropy_with_logits
V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SPARSE = xent.nn.sparse_softmax_cross_entropy_with_logits
SOFTMAX_LOSS = xent.losses.softmax_cross_entropy
SPARSE_LOSS = xent.losses.sparse_softmax_cross_entropy
WEIGHTED = xent.losses.compute_weighted_loss
FUNCTIONS = (V1, V2, SPARSE, SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED)

LOGITS = np.array([[1, 2, 3], [0, 5, -1]], np.float32)
ONE_HOT = np.array([[0, 0, 1], [0, 1, 0]], np.float32)
INDICES = np.array([2, 1], np.int32)
RIGHT: dict[Callable, dict[str, Any]] = {
    V1: {"labels": ONE_HOT, "logits": LOGITS},
    V2: {"labels": ONE_HOT, "logits": LOGITS},
    SPARSE: {"labels": INDICES, "logits": LOGITS},
    SOFTMAX_LOSS: {"onehot_labels": ONE_HOT, "logits": LOGITS},
    SPARSE_LOSS: {"labels": INDICES, "logits": LOGITS},
    WEIGHTED: {"losses": LOGITS[0], "weights": np.array([1, 0, 3], np.float32)},
}
FIRST_WRT = {fn: "losses" if fn is WEIGHTED else "logits" for fn in FUNCTIONS}
"""An argument that each function has a gradient by."""


def zeros(*shape: int) -> np.ndarray:
    """An array of zeros like logits."""
    return np.zeros(shape, np.float32)


class Cuda:
    """What looks like an array on a GPU."""

    __cuda_array_interface__ = {  # noqa: RUF012 - as CuPy has it
        "shape": (2, 3),
        "typestr": "<f4",
        "data": (0, False),
        "version": 3,
    }

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Copy to the host, which nobody asked for."""
        return np.zeros((2, 3), np.float32)


class Broken:
    """What cannot be converted after all."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Refuse, as a tensor that requires a gradient does."""
        raise RuntimeError("call detach() first")


NO_ARRAYS: dict[str, tuple[Any, type[Exception], str]] = {
    "None": (None, ValueError, "{} must not be None"),
    "str": ("abc", TypeError, "{} must be an array of numbers, got str"),
    "bytes": (b"abc", TypeError, "{} must be an array of numbers, got bytes"),
    "list of str": ([["a"] * 3] * 2, TypeError, "{} must be an array of numbers, got dtype <U1"),
    "strings": (np.full((2, 3), "a"), TypeError, "{} must be an array of numbers, got dtype <U1"),
    "objects": (LOGITS.astype(object), TypeError, "{} must be an array of numbers, got .*object"),
    "list of None": ([[None] * 3] * 2, TypeError, "{} must be an array of numbers, got .*object"),
    "dict": ({"a": 1.0}, TypeError, "{} must be an array of numbers, got .*object"),
    "dates": (
        np.zeros((2, 3), "M8[s]"),
        TypeError,
        r"{} must be an array of numbers, got dtype datetime64\[s\]",
    ),
    "durations": (
        np.zeros((2, 3), "m8[s]"),
        TypeError,
        r"{} must be an array of numbers, got dtype timedelta64\[s\]",
    ),
    "structures": (
        np.zeros((2, 3), [("a", "f4")]),
        TypeError,
        r"{} must be an array of numbers, got dtype .*'a'",
    ),
    "ragged": ([[1.0, 2.0, 3.0], [1.0]], ValueError, "{} must be a rectangular array of numbers"),
    "masked": (np.ma.masked_greater(LOGITS, 2), TypeError, "{} is a masked array"),
    "masked in a list": (
        [np.ma.masked_greater(row, 2) for row in LOGITS],
        TypeError,
        "{} .*masked array",
    ),
    "CUDA": (Cuda(), TypeError, "{} is a CUDA array.*copy it to the host"),
    "broken": (Broken(), TypeError, r"{} cannot be converted .*Broken .*call detach\(\) first"),
    "1e300": ([[1e300, 0.0, 0.0]] * 2, ValueError, r"{}: 1e\+300 does not fit float32"),
    "-1e39": ([[0.0, -1e39, 0.0]] * 2, ValueError, r"{}: -1e\+39 does not fit float32"),
    "2**70": ([[2**70, 0, 0]] * 2, ValueError, "{}.*does not fit"),
    "2**63": ([[2**63, 0, 0]] * 2, ValueError, "{}.*does not fit"),
    "-2**63 - 1": ([[-(2**63) - 1, 0, 0]] * 2, ValueError, "{}.*does not fit"),
}
"""Values that no argument may have, the error, and its text for the argument's name."""
