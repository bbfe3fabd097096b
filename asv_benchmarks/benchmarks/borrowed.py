"""Helpers of the tests, which measure and judge what is installed but are no part of it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).parents[2] / "tests"


def helper(name: str) -> Any:
    """Import a module of the tests, and with it those beside it that it imports itself.

    Raises
    ------
    NotImplementedError
        If there is none; asv takes that for a benchmark to skip.
    """
    if not (_TESTS / f"{name}.py").exists():
        raise NotImplementedError(f"there is no {_TESTS / name}.py")
    sys.path.insert(0, str(_TESTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(_TESTS))
