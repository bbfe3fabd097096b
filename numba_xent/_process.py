"""Whether this process was forked from another.

Such a process has only the thread that called `fork`: pools of threads, OpenMP's among them, are
gone, but do not know it. The package watches for forks from its import on, long before it needs
threads itself, as other code of the process may be using them already.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

_TASKS = Path("/proc/self/task")


def _main_thread_is_missing() -> bool:
    """Whether Python's main thread is one of another process: then this one was forked from it."""
    native = threading.main_thread().native_id
    return native is not None and _TASKS.exists() and not (_TASKS / str(native)).exists()


_forked = _main_thread_is_missing()


def _after_fork() -> None:
    global _forked  # noqa: PLW0603
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def is_forked() -> bool:
    """Whether this process was forked, before or after this module was imported."""
    return _forked
