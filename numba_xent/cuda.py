"""Choose the CUDA stream that computations on CUDA arrays run on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

__all__ = ["stream"]


def stream(s: Any) -> AbstractContextManager[None]:
    """Compute on a stream inside a ``with`` block.

    Without it, functions of CUDA arrays run on the arrays' own stream: the current one of PyTorch
    and CuPy, the one of Numba's and other arrays. Nothing ever waits for a stream on the host.

    Parameters
    ----------
    s : object or int
        Any object with ``__cuda_stream__`` (a stream of ``cuda.core``, CuPy, PyTorch or Numba), or
        the address of a stream.

    Returns
    -------
    context manager
        For the current thread, or asynchronous task.

    Raises
    ------
    TypeError
        If it is no stream.

    Examples
    --------
    >>> import numba_xent as xent
    >>> with xent.cuda.stream(0):  # the default stream of CUDA
    ...     pass
    """
    from ._cuda import streams  # noqa: PLC0415 - nothing of CUDA is imported before it is needed

    return streams.use(s)
