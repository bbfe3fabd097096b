"""Which backend computes on a kind of array.

Each is imported when it is first needed, because compilers are slow to import. Forks are watched
from the beginning.
"""

from __future__ import annotations

import functools
import importlib.util
from types import ModuleType
from typing import Any

from . import _process  # noqa: F401 - it watches from now on
from ._device import VIEWERS, DeviceArray, Foreign

_HINT = "or copy it to the host first"
_PACKAGES = ("numba_cuda", "cuda.core")


@functools.cache
def backend() -> ModuleType:
    """The module whose ``solve`` computes a problem on NumPy arrays."""
    from ._cpu import backend as cpu  # noqa: PLC0415

    return cpu


@functools.cache
def cuda_backend() -> ModuleType:
    """The module whose ``solve`` computes a problem on CUDA arrays."""
    from ._cuda import backend as gpu  # noqa: PLC0415

    return gpu


def _is_missing(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is None
    except ModuleNotFoundError:
        return True


@functools.cache
def why_no_cuda() -> str:
    """Why CUDA arrays cannot be computed on here; empty if they can."""
    missing = [package for package in _PACKAGES if _is_missing(package)]
    if missing:
        return f"{' and '.join(missing)} not installed: pip install 'numba_xent[cuda]'"
    from ._cuda.driver import why_no_driver  # noqa: PLC0415

    return why_no_driver()


def device_array(value: Any, name: str) -> DeviceArray:
    """A CUDA array as far as checks need to know it.

    Raises
    ------
    TypeError
        If there is no CUDA here, or kernels cannot read the array.
    """
    reason = why_no_cuda()
    if reason:
        raise TypeError(f"{name} is a CUDA array, but {reason}, {_HINT}")
    from ._cuda import arrays  # noqa: PLC0415

    return arrays.view(value, name)


VIEWERS[Foreign] = device_array
