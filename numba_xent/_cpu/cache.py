"""Numba's cache on disk, made so that it can neither mix up code nor stand in the way of a result.

Numba knows a function by its name, bytecode and closure alone, numbers its data files, and writes
the index before the data. So a name here says everything that code is made from: the functions of
other sources, processors or versions of Numba have other files, and processes that share a folder
can only ever write the same things into the same files.

A file that is damaged, a folder that cannot be written and a full disk raise in Numba's cache; here
the function is compiled, and cached only if that can be done. Damage is found by a checksum: most
of a file is machine code, in which a wrong byte would go unnoticed until it runs. Who can write to
the folder can still write checksums, and have any code run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numba
from numba.core import config
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.registry import cpu_target

from .undisturbed import undisturbed

_CHECKSUM_SIZE = hashlib.sha256().digest_size


@functools.cache
def digest(*more: str) -> str:
    """A digest of every source file that goes into compiled code, also of those in a zip file.

    Modules outside this package and ``_math`` that compile code of their own give `more`: their
    names, as ``numba_xent._bench.probe``.
    """
    found = hashlib.sha256()
    for module in more:
        package, _, name = module.rpartition(".")
        found.update(files(package).joinpath(f"{name}.py").read_bytes())
    here = __package__ or ""
    for package in (here, f"{here.rpartition('.')[0]}._math"):
        sources = [file for file in files(package).iterdir() if file.name.endswith(".py")]
        for source in sorted(sources, key=lambda file: file.name):
            content = source.read_bytes()
            found.update(f"{package} {source.name} {len(content)}\n".encode() + content)
    return found.hexdigest()


@functools.cache
def processor() -> tuple[str, str, str]:
    """The triple, the name and the features of the processor that Numba compiles for."""
    # The first to ask sets LLVM up; Ctrl-C in the middle of that would leave LLVM locked.
    found: tuple[str, str, str] = undisturbed(
        lambda: cpu_target.target_context.codegen().magic_tuple()
    )
    return found


@functools.cache
def _origin() -> str:
    """A short name for the sources, the processor, the compiler and its options."""
    options = (config.BOUNDSCHECK, config.OPT, config.DEBUGINFO_DEFAULT)
    said = repr((digest(), processor(), numba.__version__, options))
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def name_for_cache(name: str) -> str:
    """A name that no function of other sources or for another processor has."""
    return f"{name}_{_origin()}"


class _CheckedFiles(IndexDataCacheFile):
    """Numba's two files of a function, each with a checksum at its end, which Numba ignores."""

    def _checksum(self, path: str, content: bytes) -> bytes:
        return hashlib.sha256(Path(path).name.encode() + content).digest()

    def _check(self, path: str) -> None:
        whole = Path(path).read_bytes()
        content, checksum = whole[:-_CHECKSUM_SIZE], whole[-_CHECKSUM_SIZE:]
        if checksum != self._checksum(path, content):
            raise ValueError(f"{path} is damaged")

    def _load_index(self) -> Any:
        with contextlib.suppress(FileNotFoundError):
            self._check(self._index_path)
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        self._check(self._data_path(name))
        return super()._load_data(name)

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue())
            file.write(self._checksum(filepath, content.getvalue()))


class DiskCache(FunctionCache):
    """The cache of one function, which has a name of :func:`name_for_cache`.

    Attributes
    ----------
    loaded
        Whether the function was found.
    problem
        What kept the function from being written, if anything did.

    Raises
    ------
    OSError, RuntimeError, ValueError
        If there is no folder that can be written, in the words of the system or of Numba.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        locator.ensure_cache_path()
        self._cache_file = _CheckedFiles(
            self._cache_path, self._impl.filename_base, locator.get_source_stamp()
        )
        self.loaded = False
        self.problem: Exception | None = None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function, or None if it is not there or damaged."""
        try:
            code = super().load_overload(sig, target_context)
        except Exception:  # noqa: BLE001 - a damaged pickle can raise anything
            return None
        self.loaded = code is not None
        return code

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write the compiled function if that is possible."""
        try:
            super().save_overload(sig, data)
        except Exception:  # noqa: BLE001 - the index is read first, and may be damaged
            try:
                self.flush()
                super().save_overload(sig, data)
            except Exception as error:  # noqa: BLE001 - whatever it is, the function works
                self.problem = error

    def written(self) -> list[Path]:
        """The files of this function on disk."""
        return sorted(Path(self.cache_path).glob(f"{self._impl.filename_base}.*nb[ic]"))
