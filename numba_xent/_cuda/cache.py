"""Compiled code on disk: a file for each kernel, named after everything that it is made from.

Whatever cannot be read or written is compiled instead: a cache is never in the way of a result.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from importlib import metadata
from importlib.resources import files
from pathlib import Path

from numba.core import config

_HEADER = b"numba_xent\n"
_DIGEST = 32


def folder() -> Path:
    """Where compiled code is kept: in Numba's cache folder if one is set, else in the user's."""
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR) / "numba_xent"
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "numba_xent"


@functools.cache
def origin() -> str:
    """A short name for the sources and the compilers."""
    found = hashlib.sha256()
    here = __package__ or ""
    for package in (here, f"{here.rpartition('.')[0]}._math"):
        sources = [file for file in files(package).iterdir() if file.name.endswith(".py")]
        for source in sorted(sources, key=lambda file: file.name):
            content = source.read_bytes()
            found.update(f"{package} {source.name} {len(content)}\n".encode() + content)
    for name in ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-cuda-nvcc-cu12"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.update(f"{name} {metadata.version(name)}\n".encode())
    return found.hexdigest()[:16]


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, or what it returned when it was last asked for under this name.

    A file whose content does not match the digest that it begins with counts for nothing.
    """
    try:
        path = folder() / f"{origin()}_{name}"
        stored = path.read_bytes()
        content = stored[len(_HEADER) + _DIGEST :]
        if stored == _HEADER + hashlib.sha256(content).digest() + content:
            return content
    except (OSError, RuntimeError):
        pass
    content = make()
    with contextlib.suppress(OSError, RuntimeError):
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder(), delete=False) as file:
            file.write(_HEADER + hashlib.sha256(content).digest() + content)
        try:
            Path(file.name).replace(folder() / f"{origin()}_{name}")
        except OSError:
            Path(file.name).unlink()
    return content
