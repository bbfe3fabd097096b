"""Small data sets for the tests of the demo."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_xent._demo.data import Dataset

X = np.arange(60.0).reshape(20, 3)
Y = np.arange(20) % 4


def dataset(x: Any, y: Any) -> Dataset:
    """Wrap arrays, unchecked."""
    y = np.asarray(y, np.intp)
    return Dataset("a test", "example", np.asarray(x), y, int(y.max()) + 1)
