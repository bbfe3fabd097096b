"""How Python functions become machine code: Numba's options, and which cache they go to.

Everything is compiled when it is first needed and cached on disk, see :mod:`.cache`. Without a
folder for the cache everything works the same, but every process compiles for itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.registry import CPUDispatcher
from numba.core.sigutils import normalize_signature
from numba.extending import overload, register_jitable

from .cache import DiskCache, digest, name_for_cache
from .parts import PartCompiler
from .undisturbed import undisturbed

__all__ = [
    "caches",
    "callbacks",
    "compile_callback",
    "compile_function",
    "digest",
    "for_types",
    "inlined",
    "jitable",
    "parallel_part",
]

_PART = {"no_cfunc_wrapper": True, "pipeline_class": PartCompiler}


_INLINED = {**_PART, "forceinline": True}

jitable = register_jitable(**_PART)
"""Decorates what compiled functions call."""


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate what they call with registers or tuples of them.

    To pass those through memory takes longer than most of what is done with them. Arguments that
    are literals are compiled as such: what is done for None and what is done for True are two
    functions, and neither holds the code of the other.
    """
    overload(function, jit_options=_INLINED, strict=False, prefer_literal=True)(
        lambda *args: function
    )
    return function


parallel_part = register_jitable(parallel=True)
"""Decorates what they call with a loop for many threads."""

for_types = functools.partial(overload, strict=False, jit_options=_PART)
"""Decorates what gives a function its meaning for certain types."""

_caches: list[Any] = []
callbacks: dict[str, Any] = {}
"""The compiled functions that have an address, by name: it is theirs as long as they are here."""


def caches() -> list[DiskCache]:
    """The caches of all functions so far, but for those that have no folder to be cached in."""
    return [cache for cache in _caches if isinstance(cache, DiskCache)]


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    # The cache files functions by name: functions from one factory must not share one.
    function.__name__ = name
    function.__qualname__ = name_for_cache(name)
    return function


def _cache_of(function: Callable[..., Any]) -> Any:
    try:
        cache = DiskCache(function)
    except (OSError, RuntimeError, ValueError):
        cache = NullCache()
    _caches.append(cache)
    return cache


class _Function(CPUDispatcher):
    """A function that is compiled when it is first called."""

    def compile(self, sig: Any) -> Any:
        """Compile it for a signature, or load it from the cache."""
        compile_it = super().compile
        return undisturbed(lambda: compile_it(sig))


def compile_function(function: Callable[..., Any], name: str, **options: Any) -> Any:
    """A compiled function to call from Python; it runs without the GIL."""
    named = _named(function, name)
    every = {"nopython": True, "nogil": True, "error_model": "numpy", **options}
    kernel: Any = _Function(named, targetoptions=every)
    kernel._cache = _cache_of(named)
    return kernel


def compile_callback(function: Callable[..., Any], signature: Any, name: str) -> int:
    """The address of a compiled function that kernels call."""
    named = _named(function, name)
    callback: Any = CFunc(named, normalize_signature(signature), {}, {"error_model": "numpy"})
    callback._cache = _cache_of(named)
    undisturbed(callback.compile)
    # Of two threads that compile it at once, both use the one that stays.
    address: int = callbacks.setdefault(name, callback).address
    return address
