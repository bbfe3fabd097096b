"""What a kernel is told: addresses, byte strides, lengths and a few numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.cuda import types


class Tensor(NamedTuple):
    """An operand by the address of its first element and its byte strides; address 0 for none."""

    address: int
    outer: int
    inner: int
    classes: int


class Task(NamedTuple):
    """A problem, as the kernels over logits see it.

    Attributes
    ----------
    logits, labels, d_logits, d_labels, weights, upstream
        Operands; the last two have no class axis.
    losses
        The address of one loss per example, contiguous.
    raw
        Whether losses are unweighted and in the compute dtype, else they are as the logits are.
    wide
        Whether sparse labels are int64, else int32.
    outer, inner, classes
        The lengths of the axes.
    parts, states
        Into how many parts a row is split, and the address where their states are left.
    scale_at
        The address of a float64 that multiplies `scale`, or 0.
    keep, uniform
        Label smoothing, as ``label * keep + uniform``.
    scale
        Multiplies the gradients.
    weight
        Multiplies losses that are not `raw`, besides `weights`.
    """

    logits: Tensor
    labels: Tensor
    d_logits: Tensor
    d_labels: Tensor
    weights: Tensor
    upstream: Tensor
    losses: int
    raw: int
    wide: int
    outer: int
    inner: int
    classes: int
    parts: int
    states: int
    scale_at: int
    keep: float
    uniform: float
    scale: float
    weight: float


def type_of(kind: Any, tensors: tuple[str, ...], floats: tuple[str, ...], of: Any = Tensor) -> Any:
    """The Numba type of a named tuple of integers, but for some of its members."""
    tensor = types.NamedUniTuple(types.int64, len(of._fields), of)
    members = [
        tensor if name in tensors else types.float64 if name in floats else types.int64
        for name in kind._fields
    ]
    return types.NamedTuple(members, kind)


TASK = type_of(Task, Task._fields[:6], ("keep", "uniform", "scale", "weight"))
"""The type of a :class:`Task` in a kernel's signature; it is passed as its numbers, one by one."""


def flat(task: Any) -> list[Any]:
    """The numbers of a task in the order in which a kernel takes them."""
    numbers: list[Any] = []
    for value in task:
        numbers.extend(value if isinstance(value, tuple) else (value,))
    return numbers
