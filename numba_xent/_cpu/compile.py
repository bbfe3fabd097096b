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
from .undisturbed import undisturbed

__all__ = [
    "caches",
    "compile_callback",
    "compile_kernel",
    "digest",
    "for_types",
    "inlined",
    "jitable",
    "merged",
]

_INTERNAL = {"no_cfunc_wrapper": True}  # nobody calls these from elsewhere: 1/5 less to compile

jitable = register_jitable(**_INTERNAL)
"""Decorates what compiled functions call."""

inlined = register_jitable(forceinline=True, **_INTERNAL)
"""Decorates what they call with registers or tuples of them: to pass those through memory takes
longer than most of what is done with them."""

merged = register_jitable(inline="always", **_INTERNAL)
"""The same for the larger ones: merged before LLVM sees them, they are not optimised anew at each
level of calls."""

for_types = functools.partial(overload, strict=False, jit_options=_INTERNAL)
"""Decorates what gives a function its meaning for certain types."""

_caches: list[Any] = []
_callbacks: list[Any] = []  # keeps compiled callbacks alive, and with them their addresses


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


class _Kernel(CPUDispatcher):
    """A function that is compiled when it is first called."""

    def compile(self, sig: Any) -> Any:
        """Compile it for a signature, or load it from the cache."""
        compile_it = super().compile
        return undisturbed(lambda: compile_it(sig))


def compile_kernel(function: Callable[..., Any], name: str, parallel: bool) -> Callable[..., Any]:
    """A compiled function to call from Python; it runs without the GIL."""
    named = _named(function, name)
    options = {"nopython": True, "nogil": True, "error_model": "numpy", "parallel": parallel}
    kernel: Any = _Kernel(named, targetoptions=options)
    kernel._cache = _cache_of(named)
    compiled: Callable[..., Any] = kernel
    return compiled


def compile_callback(function: Callable[..., Any], signature: Any, name: str) -> int:
    """The address of a compiled function that kernels call."""
    named = _named(function, name)
    callback: Any = CFunc(named, normalize_signature(signature), {}, {"error_model": "numpy"})
    callback._cache = _cache_of(named)
    undisturbed(callback.compile)
    _callbacks.append(callback)
    address: int = callback.address
    return address
