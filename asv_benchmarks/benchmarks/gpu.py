"""Figures of the CUDA kernels: what they move, execute, and are made of.

No GPU is needed, and none is used: an interpreter executes the kernel that the installed revision
chooses for a problem, and the assembler and disassembler of CUDA say what becomes of it. Where
those are not installed, nothing of this is measured.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from . import arrays
from .borrowed import helper
from .figures import Figure
from .registry import KERNELS, SPARSE

ARCHITECTURE = "sm_90"


def _figures() -> Any:
    """What knows how to find figures.

    Raises
    ------
    NotImplementedError
        If that cannot be done here, or not of the installed revision.
    """
    if importlib.util.find_spec("numba_cuda") is None:
        raise NotImplementedError("numba-cuda is not installed")
    try:
        return helper("kernel_figures")
    except ImportError as error:
        raise NotImplementedError(f"the CUDA kernels cannot be compiled: {error}") from error


@functools.cache
def _traffic(sparse: bool, dtype: str, logits: str) -> Any:
    """What the launches for a problem do."""
    figures = _figures()
    shape = arrays.Shape.parse(logits)
    kind = "sparse" if sparse else "soft"
    return figures.traffic(figures.Problem(dtype, kind, shape.sizes, shape.axis))


class _Kernel(Figure):
    """Value and gradient of a problem, by the kernel that is chosen for it."""

    entry = KERNELS

    def setup(self, *words: str) -> None:
        """Compile the kernel, and execute it."""
        chosen = self.entry.call(*words)
        self.traffic = _traffic(chosen["function"] == SPARSE, chosen["dtype"], chosen["logits"])


class DramBytes(_Kernel):
    """Bytes of the sectors that are touched, over those of logits, labels and gradient."""

    unit = "times the least"
    slack = (0.0, 0.005)

    def track_dram(self, *_words: str) -> float:
        """1 is to read and write everything once."""
        return float(self.traffic.dram)


class LsuBytes(_Kernel):
    """Bytes that threads ask for, also of caches, over those of logits, labels and gradient."""

    unit = "times the least"
    slack = (0.0, 0.005)

    def track_lsu(self, *_words: str) -> float:
        """1 is to ask for everything once."""
        return float(self.traffic.lsu)


class ExecutedInstructions(_Kernel):
    """Instructions of PTX that threads execute for each logit."""

    unit = "instructions"
    slack = (0.01, 0.0)  # compilers move a few from one version to the next

    def track_per_logit(self, *_words: str) -> float:
        """Those of whole warps, also of threads that have nothing to do."""
        return float(self.traffic.instructions)


class _MachineCode(_Kernel):
    """What the assembler makes of the kernel, for one architecture."""

    def setup(self, *words: str) -> None:
        """Assemble and disassemble."""
        super().setup(*words)
        sass = helper("sass")
        reason = sass.why_not()
        if reason:
            raise NotImplementedError(reason)
        self.report = sass.report(self.traffic.choice, ARCHITECTURE)


class Registers(_MachineCode):
    """Registers of a thread, as the hardware gives them out: eight at a time."""

    unit = "registers"
    slack = (0.0, 0.0)

    def track_registers(self, *_words: str) -> int:
        """More of them are fewer threads at once."""
        return int(_figures().allocated(self.report))


class Spills(_MachineCode):
    """Instructions that load or store what has no register."""

    unit = "spills"
    slack = (0.0, 0.0)

    def track_spills(self, *_words: str) -> int:
        """In the code, executed or not."""
        return int(self.report.local)


class MachineInstructions(_MachineCode):
    """Instructions of the machine in the code, for each logit that a thread holds at once."""

    unit = "instructions"
    slack = (0.01, 0.0)

    def track_per_element(self, *_words: str) -> float:
        """All of them, also those of other paths than the fast one."""
        return float(self.report.instructions / self.traffic.choice.elements)
