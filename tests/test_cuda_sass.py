"""What the assembler makes of the CUDA kernels, for four generations of GPUs.

Nothing spills or lives in local memory, contiguous rows move 16 bytes at a time, and registers and
instructions stay within limits. The assembler is the one that ``cuda.core`` brings; the
disassembler is in the extra ``test``.
"""

import pytest

pytest.importorskip("numba_cuda", reason="the CUDA kernels are compiled by numba-cuda")

import sass

from numba_xent._cuda.kernels import Choice

if sass.why_not():
    pytest.skip(sass.why_not(), allow_module_level=True)

ROWS_32 = Choice("rows", "float32", "sparse", True, False, 32, 128, 32)
ROWS_512 = Choice("rows", "float32", "sparse", True, False, 512, 512, 16)
DENSE = Choice("rows", "float32", "float32", True, False, 32, 128, 32)
HALF = Choice("rows", "bfloat16", "sparse", True, False, 32, 128, 32)
LONG = Choice("finish_split", "float32", "sparse", True, False, 512, 512, 16)
COLUMNS = Choice("columns", "float32", "float32", True, False, 4, 128, 8)
LIMITS = {ROWS_32: 144, ROWS_512: 120, DENSE: 208, HALF: 168, LONG: 96, COLUMNS: 152}
"""Registers of each kernel at most: 65536 of a multiprocessor are for all its threads."""
QUICK = {(ROWS_32, "sm_90"), (COLUMNS, "sm_90"), (ROWS_512, "sm_120")}
CASES = [
    pytest.param(c, a, id=f"{c.name}-{a}", marks=() if (c, a) in QUICK else pytest.mark.slow)
    for c in LIMITS
    for a in sass.ARCHITECTURES
]


@pytest.mark.parametrize(("choice", "arch"), CASES)
def test_kernels(choice, arch):
    """No spills, no local memory, vectors of 16 bytes, registers within their limit."""
    found = sass.report(choice, arch)
    assert found.local == 0
    assert found.stack == 0
    assert found.registers <= LIMITS[choice]
    assert found.registers * choice.threads <= 65536
    if choice.family != "columns":
        vectors = choice.elements * (2 if choice.dtype == "bfloat16" else 4) // 16
        assert found.vector_loads >= vectors
        assert found.vector_stores >= vectors


def test_spills_are_seen():
    """A kernel that needs more registers than a thread can have is caught."""
    found = sass.report(Choice("rows", "float32", "float32", True, True, 32, 1024, 32), "sm_90")
    assert found.local > 0 or found.stack > 0
