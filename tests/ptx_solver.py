"""Solves a problem with the CUDA kernels, executed by the PTX interpreter.

What the kernels are told comes from the library's own planner; only memory and launches are the
interpreter's.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import ptx

from numba_xent._cuda import kernels
from numba_xent._cuda.plan import OPERANDS, Launch, Meta, Plan, make_plan
from numba_xent._cuda.task import flat

CAPABILITY = (9, 0)
PROCESSORS = 4
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@functools.cache
def program(choice: kernels.Choice) -> ptx.Program:
    """A kernel, compiled and parsed."""
    return ptx.parse(kernels.ptx(choice, CAPABILITY))


@dataclass
class Solution:
    """What came out, and what the launches did."""

    losses: np.ndarray
    grads: dict[str, np.ndarray]
    plan: Plan
    counts: list[ptx.Counts] = field(default_factory=list)


def meta(array: np.ndarray | None, address: int) -> Meta | None:
    """What the planner is told of an array."""
    if array is None:
        return None
    return Meta(array.dtype.name, array.shape, array.strides, address % 16)


def place(memory: ptx.Memory, array: np.ndarray, offset: int, **kinds: bool) -> int:
    """Put a view with its whole base into memory, and return where its first element is."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    first = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    flat_base = base if base.flags.c_contiguous else np.ascontiguousarray(base.T)
    return memory.buffer(flat_base, offset=offset, **kinds) + first


def view_of(memory: ptx.Memory, address: int, like: np.ndarray) -> np.ndarray:
    """What an array of the same shape and strides holds, at another address."""
    low = sum(min(0, (n - 1) * s) for n, s in zip(like.shape, like.strides, strict=True))
    high = sum(max(0, (n - 1) * s) for n, s in zip(like.shape, like.strides, strict=True))
    raw = memory.read(address + low, high - low + like.itemsize, np.uint8)
    return np.ndarray(like.shape, like.dtype, raw, -low, like.strides).copy()


def solve(
    labels: np.ndarray,
    logits: np.ndarray,
    axis: int = -1,
    *,
    wrt: tuple[str, ...] = ("logits",),
    weights: np.ndarray | None = None,
    upstream: np.ndarray | None = None,
    smoothing: float = 0.0,
    scale: float = 1.0,
    raw: bool = False,
    in_place: bool = False,
    offset: int = 0,
    label_offset: int | None = None,
    gradient_offset: int | None = None,
    approx_ulp: int = 0,
    approx_sign: int = 0,
    processors: int = PROCESSORS,
    clusters: bool = True,
    programs: Any = program,
) -> Solution:
    """Losses and gradients of a problem.

    Parameters
    ----------
    labels, logits, axis
        Labels are class indices if they are integers of one axis less.
    wrt
        Which gradients are wanted.
    weights, upstream
        Of the batch shape or broadcastable, in the compute dtype.
    smoothing, scale, raw
        As the kernels have them.
    in_place
        Whether the gradient replaces the logits.
    offset, label_offset, gradient_offset
        How far from a multiple of 256 bytes each array begins.
    approx_ulp, approx_sign
        How wrong approximate instructions are, and in which direction.
    processors, clusters
        What the GPU has.
    programs
        What to run instead of the kernels.
    """
    axis %= logits.ndim
    sparse = labels.ndim < logits.ndim
    wide = logits.dtype == np.float64
    memory = ptx.Memory()
    outputs = {
        "logits": logits if in_place else np.zeros_like(logits),
        "labels": np.zeros(labels.shape, labels.dtype),
    }
    arrays = {
        "logits": logits,
        "labels": labels,
        "d_logits": outputs["logits"] if "logits" in wrt else None,
        "d_labels": outputs["labels"] if "labels" in wrt else None,
        "weights": weights,
        "upstream": upstream,
    }
    at = dict.fromkeys(OPERANDS, 0)
    at["logits"] = place(memory, logits, offset, writable=in_place)
    at["labels"] = place(memory, labels, offset if label_offset is None else label_offset)
    for name in ("logits", "labels"):
        if name in wrt:
            there = offset if gradient_offset is None else gradient_offset
            at[f"d_{name}"] = (
                at[name]
                if in_place and name == "logits"
                else place(memory, outputs[name], there, writable=True, known=False)
            )
    for name in ("weights", "upstream"):
        array = arrays[name]
        if array is not None:
            at[name] = place(memory, array, 0)
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    loss = np.zeros(batch, (np.float64 if wide else np.float32) if raw else logits.dtype)
    metas = tuple(meta(arrays[n], at[n]) for n in OPERANDS)
    plan = make_plan(axis, sparse, metas, processors, clusters, smoothing != 0.0)
    states = memory.buffer(np.zeros(plan.states_bytes, np.uint8), writable=True, known=False)
    losses = memory.buffer(loss, writable=True, known=False)
    task = plan.task(
        [at[name] for name in OPERANDS],
        {
            "losses": losses,
            "raw": int(raw),
            "wide": int(labels.dtype == np.int64),
            "states": states,
            "scale_at": 0,
            "keep": 1.0 - smoothing,
            "uniform": smoothing / plan.classes,
            "scale": scale,
            "weight": 1.0,
        },
    )
    counts = [
        run(programs(launch.choice), memory, launch, task, approx_ulp, approx_sign)
        for launch in plan.launches
    ]
    grads = {name: view_of(memory, at[f"d_{name}"], outputs[name]) for name in wrt}
    return Solution(memory.read(losses, batch, loss.dtype), grads, plan, counts)


def run(
    kernel: ptx.Program, memory: ptx.Memory, launch: Launch, task: Any, approx_ulp: int = 0,
    approx_sign: int = 0,
) -> ptx.Counts:  # fmt: skip
    """Execute one launch."""
    threads = (launch.choice.threads,)
    return ptx.launch(
        kernel, memory, launch.grid, threads, flat(task),
        cluster=launch.cluster, approx_ulp=approx_ulp, approx_sign=approx_sign,
    )  # fmt: skip
