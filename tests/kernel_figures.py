"""Figures of the CUDA kernels that need no GPU: what they move, execute, and are made of.

The page of figures (``docs/cuda_figures.py``) and the benchmarks that follow them over time
(``asv_benchmarks/benchmarks/kernels.py``) take them from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes  # noqa: F401 - NumPy learns of bfloat16
import numpy as np
import sass
from ptx_solver import solve

from numba_xent._cuda.kernels import Choice

MULTIPROCESSOR_REGISTERS, MULTIPROCESSOR_WARPS, WARP = 65536, 64, 32
_REGISTERS_AT_ONCE = 8


class Problem(NamedTuple):
    """Value and gradient of logits: their dtype, kind of labels, shape and class axis."""

    dtype: str
    kind: str
    shape: tuple[int, ...]
    axis: int = 1

    def __str__(self) -> str:
        """As pages and benchmarks call it."""
        return f"{self.dtype} {self.kind} {list(self.shape)}"


PROBLEMS = (
    Problem("float32", "sparse", (64, 57)),
    Problem("float32", "sparse", (8, 1000)),
    Problem("float32", "soft", (8, 1000)),
    Problem("bfloat16", "sparse", (8, 1000)),
    Problem("float32", "sparse", (2, 8191)),
    Problem("float32", "sparse", (2, 50_257)),
    Problem("float32", "soft", (2, 50_257)),
    Problem("float32", "soft", (1, 40, 256)),
    Problem("bfloat16", "sparse", (1, 21, 512)),
    Problem("float32", "sparse", (1, 1000, 64)),
)


@dataclass(frozen=True)
class Traffic:
    """What the launches for a problem do.

    Attributes
    ----------
    choice
        The kernel that writes the gradient.
    dram
        Bytes of the sectors that each launch touches, over those of logits, labels per class and
        gradient.
    lsu
        Bytes that threads ask for, over the same.
    instructions
        Of PTX, those that warps execute times 32, for each logit.
    """

    choice: Choice
    dram: float
    lsu: float
    instructions: float


def traffic(problem: Problem, *, processors: int = 4, clusters: bool = True) -> Traffic:
    """Execute a problem with the interpreter, as a GPU with so many processors would."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=problem.shape).astype(problem.dtype)
    batch = problem.shape[: problem.axis] + problem.shape[problem.axis + 1 :]
    sparse = problem.kind == "sparse"
    classes = problem.shape[problem.axis]
    labels = rng.integers(0, classes, batch) if sparse else np.zeros_like(logits)
    found = solve(labels, logits, problem.axis, processors=processors, clusters=clusters)
    least = logits.nbytes * (2 if sparse else 3)
    return Traffic(
        choice=found.plan.launches[-1].choice,
        dram=sum(c.dram for c in found.counts) / least,
        lsu=sum(c.loaded + c.stored for c in found.counts) / least,
        instructions=WARP * sum(c.instructions for c in found.counts) / logits.size,
    )


def allocated(report: sass.Report) -> int:
    """The registers of a thread, as the hardware gives them out."""
    return -(-report.registers // _REGISTERS_AT_ONCE) * _REGISTERS_AT_ONCE


def warps(choice: Choice, report: sass.Report) -> int:
    """How many warps of a kernel the registers of a multiprocessor have room for."""
    blocks = MULTIPROCESSOR_REGISTERS // (allocated(report) * choice.threads)
    return min(MULTIPROCESSOR_WARPS, blocks * choice.threads // WARP)
