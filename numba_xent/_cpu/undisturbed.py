"""Compilation that no setting, no Ctrl-C and no garbage collector disturbs.

Numba keeps what it knows of functions and types in one place for the whole process, and an
exception at the wrong moment leaves that unfinished: whoever compiles next fails. Only the main
thread is ever interrupted, so it lets another one compile, and waits. Interrupted, it stops
waiting; the compilation goes on, and is used by the next call.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from numba.core import config
from numba.core.compiler_lock import global_compiler_lock

T = TypeVar("T")


@contextlib.contextmanager
def _garbage_left() -> Iterator[None]:
    """Leave cycles uncollected: to look through all that compilers keep takes a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _whatever_is_disabled(work: Callable[[], T]) -> T:
    """Compile under ``NUMBA_DISABLE_JIT`` as well: what is written for registers is no Python.

    The variable is for functions of the caller, who wants to step through them.
    """
    with global_compiler_lock, _garbage_left():
        disabled, config.DISABLE_JIT = config.DISABLE_JIT, 0
        try:
            return work()
        finally:
            config.DISABLE_JIT = disabled


def undisturbed(work: Callable[[], T]) -> T:
    """What `work` returns, which compiles something."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or global_compiler_lock.is_locked():  # by this thread: another would wait for it
        return _whatever_is_disabled(work)
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(_whatever_is_disabled(work))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="numba_xent compiles")
    try:
        thread.start()
    except RuntimeError:  # there can be no more threads, or the interpreter is about to end
        return _whatever_is_disabled(work)
    thread.join()
    return outcome.result()
