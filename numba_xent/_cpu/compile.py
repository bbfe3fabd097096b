"""How Python functions become machine code: Numba's options and the cache on disk, in one place.

Everything is compiled when it is first needed and cached. Numba keys its cache by the bytecode and
the closure of the outermost function alone, so each cached function closes over :func:`digest`: it
is compiled anew whenever any source file that it could be made of has changed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


@functools.cache
def digest(*more: Path) -> str:
    """A digest of every source file that goes into compiled code, and of `more` files."""
    package = Path(__file__).parent
    files = sorted([*package.glob("*.py"), *(package.parent / "_math").glob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in [*files, *more])).hexdigest()


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    # The cache files functions by name: functions from one factory must not share one.
    function.__name__ = name
    function.__qualname__ = name
    return function


def _cached(compiler: Callable[..., Any], **options: Any) -> Any:
    """Compile with the cache on disk, or without if no folder for it can be written."""
    try:
        return compiler(cache=True, **options)
    except RuntimeError:
        return compiler(cache=False, **options)


def compile_kernel(function: Callable[..., Any], name: str, parallel: bool) -> Callable[..., Any]:
    """A compiled function to call from Python; it runs without the GIL."""
    named = _named(function, name)
    kernel: Callable[..., Any] = _cached(
        functools.partial(numba.njit, named),
        nogil=True,
        error_model="numpy",
        parallel=parallel,
    )
    return kernel


_callbacks: list[Any] = []  # keeps compiled callbacks alive, and with them their addresses


def compile_callback(function: Callable[..., Any], signature: Any, name: str) -> int:
    """The address of a compiled function that kernels call."""
    callback = _cached(
        lambda **options: numba.cfunc(signature, **options)(_named(function, name)),
        error_model="numpy",
    )
    _callbacks.append(callback)
    address: int = callback.address
    return address
