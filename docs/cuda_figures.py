"""Writes ``docs/cuda-figures.md``: ``python docs/cuda_figures.py`` (no GPU needed, nor used)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import sass
from kernel_figures import PROBLEMS, traffic, warps
from stub import session

NEVER = (
    "**None of this has run on a GPU yet.** The kernels were executed by the PTX interpreter of the "
    "tests, and assembled and disassembled; no time on a GPU is known."
)
LONG = 50_000
WAYS = ({}, {"clusters": False}, {"processors": 132})
"""A small GPU with clusters, without, and one that has many multiprocessors for few rows."""
HOST = """
import time
import numpy as np, numba_xent as xent
from numba import cuda
x = cuda.to_device(np.zeros((32, 10), np.float32))
y = cuda.to_device(np.zeros(32, np.int64))
f = xent.value_and_grad(xent.nn.sparse_softmax_cross_entropy_with_logits)
g = cuda.device_array((32, 10), np.float32)
session = __import__("stub.session").session
session.ignore()
f(labels=y, logits=x, out=g)
best = 1.0
for _ in range(50):
    start = time.perf_counter()
    for _ in range(20):
        f(labels=y, logits=x, out=g)
    best = min(best, (time.perf_counter() - start) / 20)
print(1e6 * best)
"""


def memory_rows() -> list[str]:
    """Bytes and instructions of each problem, against what must be moved."""
    rows = []
    for problem in PROBLEMS:
        for way in WAYS if problem.shape[problem.axis] > LONG else WAYS[:1]:
            found = traffic(problem, **way)
            cluster = found.choice.cluster
            name = found.choice.family.replace("finish_", "")
            blocks = f", {cluster} blocks" if cluster > 1 else ""
            rows.append(
                f"| {name}{blocks} | {problem} | {found.dram:.2f} | {found.lsu:.2f} | "
                f"{found.instructions:.0f} |"
            )
    return rows


def kernel_rows() -> list[str]:
    """Registers, spills and occupancy of each kernel on each architecture."""
    from test_cuda_sass import CASES  # noqa: PLC0415

    rows = []
    for case in CASES:
        choice, _, arch = case.values
        if choice.dtype != "float32":
            continue
        found = sass.report(choice, arch)
        rows.append(
            f"| `{choice.name}` | {arch} | {found.registers} | {found.local} | "
            f"{warps(choice, found)} | {found.vector_loads} / {found.vector_stores} | "
            f"{found.instructions} |"
        )
    return rows


def host_time() -> float:
    """Microseconds of a warm call, all of Python and of ``cuda.core``, none of a driver."""
    with tempfile.TemporaryDirectory() as folder:
        session.build(Path(folder))
        done = session.run(Path(folder), HOST)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def main() -> None:
    """Write the page."""
    lines = [
        "# Figures of the CUDA kernels", "", NEVER, "",
        "Written by `python docs/cuda_figures.py`.", "",
        "## Memory", "",
        "Value and gradient. DRAM: the 32-byte sectors that are touched in each launch, over the "
        "bytes of logits, labels per class and gradient. LSU: the bytes that threads ask for, over "
        "the same. Instructions are those of PTX that warps execute, times 32, for each logit.", "",
        "| kernel | problem | DRAM / least | LSU / least | instructions / logit |",
        "| --- | --- | --- | --- | --- |", *memory_rows(), "",
        "## Machine code", "",
        "Warps: as many as the registers of a multiprocessor (65536) allow, of 64. Vectors: loads "
        "and stores of 16 bytes in the code. Instructions: all that the code holds.", "",
        "| kernel | architecture | registers | spills | warps | vectors | instructions |",
        "| --- | --- | --- | --- | --- | --- | --- |", *kernel_rows(), "",
        "## Host", "",
        f"A warm call of value and gradient with `out=` for [32, 10] takes {host_time():.1f} us on "
        "the host, all of Python, Numba and `cuda.core`, against a stub of the driver that does "
        "nothing at a launch.", "",
    ]  # fmt: skip
    (HERE / "cuda-figures.md").write_text("\n".join(lines), "utf-8")


if __name__ == "__main__":
    main()
