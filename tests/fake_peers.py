"""Libraries to compare with that are none: some right, some not, see `numba_xent._bench.peers`."""

import os
import sys
import time
from typing import Any

import numpy as np


def right(threads: int) -> Any:
    """Compute the losses with NumPy, on however many threads."""

    def prepare(task: Any, operands: Any) -> Any:
        print("a library that talks", flush=True)
        x = np.moveaxis(operands.logits.astype(np.float64), task.case.axis, -1)
        log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
        if task.labels == "dense":
            losses = -(np.moveaxis(operands.dense, task.case.axis, -1) * log_p).sum(-1)
        else:
            losses = -np.take_along_axis(log_p, operands.sparse[..., None], -1)
        return lambda: losses, lambda result: float(result.sum())

    return prepare


def wrong(threads: int) -> Any:
    """Take twice as much for the loss."""
    prepare = right(threads)

    def prepare_wrong(task: Any, operands: Any) -> Any:
        call, total = prepare(task, operands)
        return call, lambda result: 2 * total(result)

    return prepare_wrong


def failing(threads: int) -> Any:
    """Fail at dense labels, with a message of many lines."""
    prepare = right(threads)

    def prepare_or_fail(task: Any, operands: Any) -> Any:
        if task.labels == "dense":
            raise NotImplementedError("no dense labels\n  at line 1\n  at line 2")
        return prepare(task, operands)

    return prepare_or_fail


def dying(threads: int) -> Any:
    """End the process at dense labels."""

    def prepare_or_die(task: Any, operands: Any) -> Any:
        if task.labels == "dense":
            sys.stderr.flush()
            os._exit(7)
        return right(threads)(task, operands)

    return prepare_or_die


def silent(threads: int) -> Any:
    """Never come back."""
    time.sleep(1000)
