"""Not a byte beside any operand or output is read or written, at any alignment."""

import sys

import pytest
from processes import ended, python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect")

BROKEN = """
import ctypes
from guard_pages import Fenced
fence = Fenced()
a = fence.place((5,), "f4", 0, True)
a[...] = 1
fence.check()
print(a.sum(), flush=True)
ctypes.memmove(ctypes.create_string_buffer(8), a.ctypes.data + 16, 5)
"""


@pytest.mark.parametrize(
    ("dtype", "step"),
    [
        ("float32", 1),
        ("float64", 1),
        ("float16", 5),
        ("bfloat16", 5),
        pytest.param("float16", 1, marks=pytest.mark.slow),
        pytest.param("bfloat16", 1, marks=pytest.mark.slow),
    ],
)
def test_guard_pages(dtype: str, step: int) -> None:
    """Every schedule and every tail, between pages that kill whoever touches them.

    At every alignment, or at one of so many.
    """
    code = "import faulthandler, guard_pages\nfaulthandler.enable()\n"
    small, large = map(int, python(code + f"guard_pages.main({dtype!r}, {step})").split())
    assert small > 6_000
    assert large == 60


def test_the_fence_kills() -> None:
    """One byte too many is noticed."""
    done = ended(BROKEN)
    assert done.stdout.split() == ["5.0"]
    assert done.returncode == -11


def test_labels_that_change_after_their_check() -> None:
    """Another thread may do that at any moment; here nothing has been checked at all."""
    code = """
import numpy as np
from numba_xent._cpu import recipe
recipe.checker = lambda: 0
import numba_xent as xent
both = xent.value_and_grad(xent.nn.sparse_softmax_cross_entropy_with_logits)
for dtype in np.float16, np.float32, np.float64:
    for shape in (33, 3), (5, 700), (3, 9000):
        for label in 10**12, -(10**12), 2**62, -(2**63):
            logits = np.ones(shape, dtype)
            both(labels=np.full(shape[0], label), logits=logits)
            both(labels=np.full(shape[0], label), logits=np.asfortranarray(logits))
print("alive")
"""
    assert python(code).split() == ["alive"]
