"""The command ``warmup``: compile now what first calls would compile, into the cache on disk."""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import FLOAT_NAMES, compute_dtype
from ._progress import progress_bar

if TYPE_CHECKING:
    from ._cpu.cache import DiskCache

INDICES = ("int32", "int64")
LABELS = ("bool", "int8", "uint8", *INDICES, *FLOAT_NAMES)
"""The dtypes of dense labels that are not converted to another one first."""


class WarmupError(Exception):
    """Compiled code cannot be kept; the message says why."""


def add_warmup_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "--dtypes",
        type=_dtypes,
        default="float32,float64",
        metavar="NAMES",
        help=f"what logits will be: one or more of {','.join(FLOAT_NAMES)} (default: %(default)s)",
    )


def _dtypes(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in FLOAT_NAMES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(FLOAT_NAMES)}")
    return names


def run_warmup(options: argparse.Namespace) -> None:
    """Compile everything for logits of some dtypes, and say what is where.

    Parameters
    ----------
    options : argparse.Namespace
        The parsed options of `add_warmup_options`.

    Raises
    ------
    WarmupError
        If there is no folder to write to, if a file cannot be written, or for bfloat16 without
        ml_dtypes.
    """
    from ._cpu.compile import caches  # noqa: PLC0415 - slow to import

    start = time.perf_counter()
    dtypes = [_dtype(name) for name in options.dtypes]
    steps = [*_calls(dtypes), *_compilations(dtypes)]
    if not caches():
        raise WarmupError(
            "there is no folder that compiled code can be written to; NUMBA_CACHE_DIR can name one"
        )
    with progress_bar(len(steps), "compiling", "steps") as bar:
        for step in steps:
            step()
            bar.advance(1)
    print(_report(caches(), time.perf_counter() - start))


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        try:
            import ml_dtypes  # noqa: PLC0415 - optional, and NumPy knows the name afterwards
        except ImportError as error:
            raise WarmupError("bfloat16 needs the package ml_dtypes") from error
        del ml_dtypes
    return np.dtype(name)


def _calls(dtypes: list[np.dtype[Any]]) -> Iterator[Callable[[], object]]:
    """Calls on one example that need everything but kernels: what moves numbers of each dtype."""
    import numba_xent as xent  # noqa: PLC0415 - it is what imports us

    v2 = xent.nn.softmax_cross_entropy_with_logits_v2
    dense = xent.value_and_grad(v2, wrt=("logits", "labels"))
    sparse = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)
    for dtype in dtypes:
        logits = np.zeros((1, 3), dtype)
        yield functools.partial(dense, labels=logits, logits=logits)
        for name in LABELS:
            if name != "bfloat16" or dtype.name == name:
                yield functools.partial(v2, labels=np.zeros((1, 3), name), logits=logits)
        for name in INDICES:
            yield functools.partial(sparse, np.zeros(1, name), logits)


def _compilations(dtypes: list[np.dtype[Any]]) -> Iterator[Callable[[], object]]:
    """The compilations of all kernels, and of what launches them; to be run after the calls."""
    from ._cpu.kernels import solver, solvers  # noqa: PLC0415 - slow to import
    from ._cpu.launch import launcher  # noqa: PLC0415 - slow to import

    choices = [solvers(compute_dtype(dtype), dtype.name) for dtype in dtypes]
    for choice in dict.fromkeys(itertools.chain(*choices)):
        yield functools.partial(solver, *choice)
    serial: Any = launcher(False)
    parallel: Any = launcher(True)
    # They take the same, and one has been called by now.
    yield lambda: parallel.compile(serial.signatures[0])


def _report(caches: list[DiskCache], seconds: float) -> str:
    """What has been compiled, how much of it, where it is, and what had been there before."""
    lost = [cache.problem for cache in caches if cache.problem is not None]
    if lost:
        raise WarmupError(f"{len(lost)} of {len(caches)} functions cannot be written: {lost[0]}")
    present = sum(cache.loaded for cache in caches)
    written = [file for cache in caches if not cache.loaded for file in cache.written()]
    size = sum(file.stat().st_size for file in written) / 1e6
    folders = dict.fromkeys(str(Path(cache.cache_path).absolute()) for cache in caches)
    return (
        f"Compiled {len(caches) - present} functions in {seconds:.1f} s: "
        f"{len(written)} files, {size:.1f} MB. {present} functions were there already.\n"
        f"Folder: {', '.join(folders)}"
    )
