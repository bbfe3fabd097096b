"""Assembles kernels and reads what the disassembler says about them."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
WITH_CLUSTERS = ARCHITECTURES[1:]
_INSTRUCTION = re.compile(
    r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE
)
_REGISTER = re.compile(r"\bR(\d+)\b")


@dataclass(frozen=True)
class Report:
    """What a kernel is made of.

    Attributes
    ----------
    instructions
        All of them, also those of other paths than the fast one.
    registers
        How many a thread needs.
    local
        Loads and stores of local memory: spills.
    stack
        Bytes of a thread's stack.
    vector_loads, vector_stores
        Accesses to global memory of 16 bytes.
    """

    instructions: int
    registers: int
    local: int
    stack: int
    vector_loads: int
    vector_stores: int


@functools.cache
def disassembler() -> Path | None:
    """The program ``nvdisasm`` of the package of that name."""
    try:
        import nvidia  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    found = [p for root in nvidia.__path__ for p in Path(root).glob("**/bin/nvdisasm")]
    return found[0] if found else None


def why_not() -> str:
    """Why kernels cannot be disassembled here; empty if they can."""
    return "" if disassembler() else "no nvdisasm: it comes with the package nvidia-cuda-nvdisasm"


def _digits(arch: str) -> tuple[int, int]:
    digits = arch.removeprefix("sm_")
    return int(digits[:-1]), int(digits[-1])


@functools.cache
def report(choice: object, arch: str) -> Report:
    """Assemble a kernel over logits and count."""
    from numba_xent._cuda import kernels  # noqa: PLC0415

    return report_of(choice.name, kernels.ptx(choice, _digits(arch)), arch)


@functools.cache
def report_elementwise(name: str, arch: str) -> Report:
    """The same for ``product`` or ``fold``."""
    from numba_xent._cuda import kernels  # noqa: PLC0415

    return report_of(name, kernels.elementwise_ptx(name, _digits(arch)), arch)


@functools.cache
def report_sum(name: str, dtype: str, arch: str) -> Report:
    """The same for ``partial_sums`` or ``total_sum``, for logits of a dtype."""
    from numba_xent._cuda import kernels  # noqa: PLC0415

    text = kernels.sum_ptx(name, dtype, _digits(arch))
    return report_of(kernels.sum_name(name, dtype), text, arch)


def report_of(kernel: str, text: str, arch: str) -> Report:
    """Assemble PTX and count."""
    from cuda.core import Program, ProgramOptions  # noqa: PLC0415

    from numba_xent._cuda import cache  # noqa: PLC0415

    name = f"{kernel}_{arch}.cubin"
    code = cache.kept(
        name,
        lambda: bytes(Program(text, "ptx", ProgramOptions(arch=arch)).compile("cubin").code),
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        done = subprocess.run(
            [str(disassembler()), file.name], capture_output=True, text=True, check=True
        )
    operations = _INSTRUCTION.findall(done.stdout)
    starts = tuple(f"{kind}.E" for kind in ("LDG", "STG"))
    frame = re.findall(
        r"EIATTR_FRAME_SIZE.*?\.word\s+\S+\n\s*\.word\s+(0x[0-9a-f]+|\d+)", done.stdout, re.DOTALL
    )
    return Report(
        instructions=len(operations),
        registers=1 + max(map(int, _REGISTER.findall(done.stdout))),
        local=sum(op.startswith(("LDL", "STL")) for op in operations),
        stack=max((int(size, 0) for size in frame), default=0),
        vector_loads=sum(op.startswith(starts[0]) and ".128" in op for op in operations),
        vector_stores=sum(op.startswith(starts[1]) and ".128" in op for op in operations),
    )
