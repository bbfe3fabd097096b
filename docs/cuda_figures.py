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
from cuda.bindings import driver as api
from numba import cuda
from numba_xent._cuda import driver
x = cuda.to_device(np.zeros((32, 10), np.float32))
y = cuda.to_device(np.zeros(32, np.int64))
g = cuda.device_array((32, 10), np.float32)
loss = xent.nn.sparse_softmax_cross_entropy_with_logits
mean = xent.losses.sparse_softmax_cross_entropy
calls = [
    lambda: loss(labels=y, logits=x),
    lambda f=xent.value_and_grad(loss): f(labels=y, logits=x, out=g),
    lambda f=xent.value_and_grad(loss): f(labels=y, logits=x),
    lambda: mean(y, x),
    lambda f=xent.value_and_grad(mean): f(y, x, out=g),
    lambda f=xent.value_and_grad(mean): f(y, x),
]
session = __import__("stub.session").session
session.ignore()
def best():
    least = [1.0] * len(calls)
    for _ in range(30):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(50):
                call()
            least[i] = min(least[i], (time.perf_counter() - start) / 50)
    return least
whole = best()
kept = driver.allocate(4096, 0, 1)
driver.allocate = lambda size, number, handle: kept
api.cuLaunchKernelEx = lambda *arguments: (0,)
for a, b in zip(whole, best()):
    print(1e6 * a, 1e6 * b)
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


def host_rows() -> list[str]:
    """Microseconds of warm calls: of Python, Numba and ``cuda.core``, and without the last."""
    with tempfile.TemporaryDirectory() as folder:
        session.build(Path(folder))
        done = session.run(Path(folder), HOST)
    if done.returncode:
        raise RuntimeError(done.stderr)
    calls = (
        "losses", "losses and gradient, with `out=`", "losses and gradient",
        "their mean", "mean and gradient, with `out=`", "mean and gradient",
    )  # fmt: skip
    return [
        "| {} | {:.1f} | {:.1f} |".format(call, *map(float, line.split()))
        for call, line in zip(calls, done.stdout.splitlines(), strict=True)
    ]


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
        "Microseconds of a warm call of [32, 10] on the host: all of it, against a stub of the "
        "driver that does nothing at a launch; and what is left of it if `cuda.core` is not asked "
        "for memory and nothing is launched.", "",
        "| sparse labels | all | of our own |",
        "| --- | --- | --- |", *host_rows(), "",
    ]  # fmt: skip
    (HERE / "cuda-figures.md").write_text("\n".join(lines), "utf-8")


if __name__ == "__main__":
    main()
