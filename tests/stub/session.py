"""Builds the stub, starts processes under it, and executes their launches."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import ptx
from ptx.memory import GAP, Space

HERE = Path(__file__).parent
_LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.c_void_p, ctypes.c_void_p
)
_MANY = 65536


def why_not() -> str:
    """Why the stub cannot be built here; empty if it can."""
    if sys.platform != "linux":
        return "the stub of the driver is for Linux"
    if shutil.which("cc") is None:
        return "no C compiler (cc) to build the stub of the driver with"
    return "" if header() else "no cuda.h: the packages of numba_xent[cuda] are not installed"


def header() -> Path | None:
    """The folder of ``cuda.h``, as the packages of CUDA bring it."""
    try:
        roots = [Path(str(p)) for p in files("nvidia")._paths]  # a namespace of several
    except (ModuleNotFoundError, AttributeError):
        return None
    found = [p.parent for root in roots for p in root.glob("*/include/cuda.h")]
    return found[0] if found else None


def build(folder: Path) -> None:
    """Compile the stub as ``libcuda.so.1``."""
    command = ["cc", "-shared", "-fPIC", "-O1", "-w", f"-I{header()}", "-o",
               str(folder / "libcuda.so.1"), str(HERE / "libcuda.c"), "-ldl"]  # fmt: skip
    subprocess.run(command, check=True)


def run(
    folder: Path, code: str, timeout: float = 280, devices: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that finds the stub where it looks for the driver."""
    environment = dict(os.environ)
    environment["LD_LIBRARY_PATH"] = str(folder)
    environment["STUB_DEVICES"] = str(devices)
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, sys.path)])
    start = "import stub.session\nstub.session.start()\n"
    return subprocess.run(
        [sys.executable, "-c", start + code],
        capture_output=True, text=True, timeout=timeout, check=False, env=environment,
    )  # fmt: skip


# ---- inside such a process ------------------------------------------------------------------

launches: list[dict[str, Any]] = []
"""What was launched: the kernel's name, its grid, block and stream."""

_state: dict[str, Any] = {"execute": True, "fail": False, "error": ""}


@functools.cache
def _program(name: str) -> ptx.Program:
    from numba_xent._cuda import kernels  # noqa: PLC0415

    for text in kernels.compiled.values():
        program = ptx.parse(text)
        if program.name == name:
            return program
    raise KeyError(name)


def _memory(library: Any) -> ptx.Memory:
    """The interpreter's view of the stub's arena."""
    memory = ptx.Memory()
    memory.base = library.stub_arena()
    used = library.stub_used()
    memory.space = Space(used + GAP, "global memory")
    raw = (ctypes.c_uint8 * used).from_address(memory.base)
    memory.space.bytes[:used] = np.frombuffer(raw, np.uint8)
    at, size = (np.zeros(_MANY, np.uint64) for _ in range(2))
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (at, size)]
    for i in range(library.stub_buffers(*pointers)):
        first = int(at[i]) - memory.base
        here = slice(first, first + int(size[i]))
        memory.space.allowed[here] = True
        memory.space.writable[here] = True
        memory.space.known[here] = True
    return memory


def _arguments(program: ptx.Program, parameters: int) -> list[Any]:
    places = (ctypes.c_void_p * len(program.parameters)).from_address(parameters)
    kinds = {"f64": ctypes.c_double}
    return [
        kinds.get(kind, ctypes.c_int64).from_address(place).value
        for (_, kind), place in zip(program.parameters, places, strict=True)
    ]


def start() -> None:
    """Execute every launch of this process from now on."""
    library = ctypes.CDLL("libcuda.so.1")
    for function in (library.stub_arena, library.stub_used):
        function.restype = ctypes.c_uint64

    @_LAUNCH
    def launch(name: bytes, shape: Any, stream: int | None, parameters: int) -> int:
        try:
            text = name.decode()
            launches.append({"name": text, "grid": tuple(shape[:3]), "block": tuple(shape[3:6]),
                             "cluster": shape[6], "stream": stream or 0})  # fmt: skip
            if _state["fail"]:
                return 1
            if not _state["execute"]:
                return 0
            program = _program(text)
            memory = _memory(library)
            arguments = _arguments(program, parameters)
            ptx.launch(program, memory, shape[:3], shape[3:6], arguments, cluster=shape[6])
            used = len(memory.space.bytes) - GAP  # at the start: other threads may use more now
            ctypes.memmove(memory.base, memory.space.bytes.ctypes.data, used)
        except Exception as error:  # noqa: BLE001 - it must not pass through C
            _state["error"] = repr(error)
            print(f"launch failed: {error!r}", file=sys.stderr)
            return 1
        return 0

    library.stub_set_launch(launch)
    _state.update(library=library, launch=launch)


def execute(wanted: bool) -> None:
    """Whether launches are executed, or only recorded."""
    _state["execute"] = wanted


def ignore() -> None:
    """Have the driver do nothing at a launch from now on, so that the host's time is its own."""
    _state["library"].stub_set_launch(None)


def fail(wanted: bool) -> None:
    """Whether launches fail from now on."""
    _state["fail"] = wanted


def used() -> int:
    """How many bytes of the device have ever been used."""
    return int(_state["library"].stub_used())


def refuse(size: int) -> None:
    """Have no memory from now on for so many bytes or more; 0 for any."""
    _state["library"].stub_refuse(ctypes.c_uint64(size))


def synchronisations() -> int:
    """How often the host has waited for the device."""
    return int(_state["library"].stub_synchronisations())
