"""On which stream to compute: the one that the caller names, else the arrays' own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

LEGACY = 1
"""The default stream of CUDA, as ``__cuda_stream__`` gives it."""

_chosen: ContextVar[int | None] = ContextVar("numba_xent_stream", default=None)


def as_handle(stream: Any) -> int:
    """The address that a stream is known by.

    Raises
    ------
    TypeError
        If it is none.
    """
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        return int((protocol() if callable(protocol) else protocol)[1]) or LEGACY
    for name in ("cuda_stream", "ptr", "handle"):  # PyTorch, CuPy and Numba, of older versions
        value = getattr(stream, name, None)
        if value is not None:
            return int(getattr(value, "value", value) or 0) or LEGACY
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream or LEGACY
    raise TypeError(
        f"stream must have __cuda_stream__ or be the address of a stream, got {stream!r}"
    )


@contextlib.contextmanager
def use(stream: Any) -> Iterator[None]:
    """Compute on a stream inside a ``with`` block."""
    token = _chosen.set(as_handle(stream))
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen() -> int | None:
    """The stream that the caller has named, if any."""
    return _chosen.get()


def own_stream(array: Any) -> int | None:
    """The stream on which an array's library works now; None if that is not known."""
    kind = type(array).__module__.partition(".")[0]
    if kind == "torch":
        return int(sys.modules["torch"].cuda.current_stream(array.device).cuda_stream) or LEGACY
    if kind == "cupy":
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr) or LEGACY
    if hasattr(array, "__dlpack__"):
        return None  # it is told which stream to make wait, and need not say more
    interface = array.__cuda_array_interface__
    return interface.get("stream") or None
