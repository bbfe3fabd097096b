"""Measures the CUDA kernels on a GPU in GB/s: ``python docs/cuda_speed.py``."""

from __future__ import annotations

import sys

import numpy as np
from numba import cuda

import numba_xent as xent
from numba_xent._dispatch import why_no_cuda

SHAPES = [(1 << 20, 10), (1 << 17, 128), (32768, 1000), (1024, 32000), (512, 128256)]
REPEATS = 20


def main() -> None:
    """Print a line for each shape: bytes of logits and gradient over the time of a call."""
    if why_no_cuda():
        sys.exit(f"nothing to measure: {why_no_cuda()}")
    f = xent.value_and_grad(xent.nn.sparse_softmax_cross_entropy_with_logits)
    for shape in SHAPES:
        x = cuda.to_device(np.zeros(shape, np.float32))
        y = cuda.to_device(np.zeros(shape[:-1], np.int64))
        out = cuda.device_array(shape, np.float32)
        f(labels=y, logits=x, out=out)
        start, end = cuda.event(), cuda.event()
        with xent.cuda.stream(1):
            start.record()
            for _ in range(REPEATS):
                f(labels=y, logits=x, out=out)
            end.record()
        end.synchronize()
        seconds = cuda.event_elapsed_time(start, end) / REPEATS / 1000
        print(f"{shape}: {2 * x.nbytes / seconds / 1e9:.0f} GB/s")


if __name__ == "__main__":
    main()
