"""Where the measurements were made."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numba_xent as xent


def describe_machine() -> dict[str, Any]:
    """Return what `numba_xent.show_config` says, the processor's name, and how busy it is."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"cpu_model": _cpu_model(), "load": load, **xent.show_config()}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
