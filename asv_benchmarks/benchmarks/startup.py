"""The time of what happens once in a process: importing, and a first call.

asv runs the code that a function returns in a process of its own, and times the first part of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

_ARRAYS = """
import numba, numpy as np
import numba_xent as xent
logits, labels = np.zeros((32, 10), np.float32), np.zeros(32, np.int64)
loss_and_grad = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)
"""
_CALL = "loss_and_grad(labels, logits)"
_OWN_CACHE = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""


class Import:
    """Import the package, on top of Numba."""

    version = "1"
    unit = "seconds"
    repeat = (3, 10, 20.0)

    def timeraw_import(self) -> tuple[str, str]:
        """On top of Numba and NumPy."""
        return "import numba_xent", "import numba, numpy"

    def in_gate(self) -> bool:
        """The gate takes it."""
        return True


class FirstCall:
    """Value and gradient for 32 examples, from compiled code on disk or without any."""

    version = "1"
    unit = "seconds"
    rounds = 1
    repeat = (2, 5, 60.0)
    timeout = 600.0
    params = ("warm", "cold")
    param_names = ("cache",)

    def setup(self, cache: str) -> None:
        """Compile for the processes to come; once, as asv comes back before each of them."""
        if cache == "cold" or self.is_warm:
            return
        if "NUMBA_CACHE_DIR" not in os.environ:
            self.folder = tempfile.TemporaryDirectory()
            os.environ["NUMBA_CACHE_DIR"] = self.folder.name
        subprocess.run([sys.executable, "-P", "-c", _ARRAYS + _CALL], check=True)
        self.is_warm = True

    is_warm = False

    def timeraw_call(self, cache: str) -> tuple[str, str]:
        """The first call."""
        return _CALL, (_OWN_CACHE if cache == "cold" else "") + _ARRAYS

    def in_gate(self, cache: str) -> bool:
        """The gate takes what users wait for each time."""
        return cache == "warm"
