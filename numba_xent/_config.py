"""What a bug report needs to know."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

from ._version import __version__


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def show_config() -> dict[str, Any]:
    """Show versions and settings that results, speed and errors may depend on.

    Returns
    -------
    dict
        Versions of numba_xent, Python, NumPy, Numba, llvmlite and ml_dtypes; the platform and the
        processor that code is compiled for; Numba's threading layer (if a parallel kernel has run;
        else the priority list) and number of threads; where compiled code is cached; and whether
        there is a GPU, or what is missing.

    Examples
    --------
    >>> import numba_xent as xent
    >>> xent.show_config()["numba_xent"]
    '0.1.0'
    """
    import llvmlite.binding as llvm  # noqa: PLC0415 - slow to import, and rarely needed
    import numba  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    from numba.core import config  # noqa: PLC0415

    from ._dispatch import why_no_cuda  # noqa: PLC0415

    threads: int | str
    try:
        layer = numba.threading_layer()
    except ValueError:
        layer = "not started, will be the first of " + " ".join(config.THREADING_LAYER_PRIORITY)
    try:
        threads = numba.get_num_threads()
    except Exception as error:  # noqa: BLE001 - what keeps threads from starting is to be shown
        threads = f"1, as Numba's cannot start: {error}"
    features = config.CPU_FEATURES or llvm.get_host_cpu_features().flatten()
    return {
        "numba_xent": __version__,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": _version("llvmlite"),
        "ml_dtypes": _version("ml_dtypes"),
        "platform": platform.platform(),
        "cpu": config.CPU_NAME or llvm.get_host_cpu_name(),
        "cpu_features": " ".join(f[1:] for f in sorted(features.split(",")) if f.startswith("+")),
        "cores": os.cpu_count(),
        "threads": threads,
        "threading_layer": layer,
        "cache": config.CACHE_DIR or "__pycache__ beside the package, or a folder of the user",
        "gpu": why_no_cuda() or "available",
    }
