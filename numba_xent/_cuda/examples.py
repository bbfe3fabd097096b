"""What all kernels over logits do for an example: find it, tell its loss, scale its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._math.constants import constants
from .._math.cross_entropy import (
    Finished,
    State,
    dense_gradient,
    dense_loss,
    finish,
    smooth,
    sparse_gradient,
    sparse_loss,
)
from .._math.primitives import fma, where, widen
from .device import reciprocal

DENSE = SMOOTH = False
SIZE = RAW_SIZE = 0
NUMBER: Any = None
ZERO: Any = None
ONE: Any = None
NAN: Any = None
load_index: Any = None
load_wide_index: Any = None
load_number: Any = None
load_scale: Any = None
store_loss: Any = None
store_raw_loss: Any = None
_NONE = np.int64(0)


def place_of(task: Any, example: int) -> tuple[int, int]:
    """The outer and inner position of an example."""
    if task.inner == 1:
        return example, _NONE
    outer = np.uint64(example) // np.uint64(task.inner)
    return np.int64(outer), example - np.int64(outer) * task.inner


def start_of(tensor: Any, outer: int, inner: int) -> int:
    """The address of an example's first class."""
    return tensor.address + outer * tensor.outer + inner * tensor.inner


def inverse_of(state: State) -> Any:
    """``1 / s`` of a whole example; NaN where it has no finite maximum."""
    valid = (state.top - state.top == ZERO) & (state.count > ZERO)
    near = reciprocal(state.count + state.rest)
    # One step of Newton's, for the sum before it was rounded.
    wrong = fma(-near, state.rest, fma(-near, state.count, ONE))
    return where(valid, fma(near, wrong, near), NAN)


def finish_wide(state: State) -> Finished:
    """What a whole example has come to, in float64."""
    return finish(wide_state(state))


def wide_state(state: State) -> State:
    """A state in float64."""
    return State(
        widen(state.top),
        widen(state.count),
        widen(state.rest),
        widen(state.rest_low),
        widen(state.dot),
        widen(state.dot_low),
        widen(state.mass),
        widen(state.mass_low),
        widen(state.drop) * widen(constants(state.top).scale_up),
        widen(state.drop_low) * widen(constants(state.top).scale_up),
        widen(state.size),
    )


def label_of(task: Any, outer: int, inner: int) -> int:
    """The class that is an example's label; -1 if there is no such class."""
    at = start_of(task.labels, outer, inner)
    label = load_wide_index(at) if task.wide != 0 else load_index(at)
    return label if 0 <= label < task.classes else np.int64(-1)


def loss_of(task: Any, state: State, z: Any) -> Any:
    """The loss of a whole example in float64; `z` is the logit of the label, if there is one."""
    row = finish_wide(state)
    if DENSE:
        keep, uniform = (task.keep, task.uniform) if SMOOTH else (1.0, 0.0)
        return dense_loss(wide_state(state), row, keep, uniform)
    return sparse_loss(widen(z), row)


def write_loss(task: Any, example: int, outer: int, inner: int, loss: Any) -> None:
    """Write a loss as it is wanted."""
    if task.raw != 0:
        store_raw_loss(task.losses + example * RAW_SIZE, loss)
    else:
        loss = loss * task.weight
        if task.weights.address != 0:
            loss = loss * widen(load_number(start_of(task.weights, outer, inner)))
        store_loss(task.losses + example * SIZE, loss)


def factor_of(task: Any, outer: int, inner: int) -> Any:
    """What the gradients of an example are multiplied by."""
    factor = NUMBER(task.scale)
    if task.scale_at != 0:
        factor = NUMBER(task.scale * load_scale(task.scale_at))
    if task.weights.address != 0:
        factor = factor * load_number(start_of(task.weights, outer, inner))
    if task.upstream.address != 0:
        factor = factor * load_number(start_of(task.upstream, outer, inner))
    return factor


def gradient_of(task: Any, e: Any, to_probability: Any, label: Any, factor: Any) -> Any:
    """The gradient by the logit of a class, as if it were not the label if labels are sparse."""
    if not DENSE:
        return sparse_gradient(e, to_probability, factor)
    if SMOOTH:
        label = smooth(label, NUMBER(task.keep), NUMBER(task.uniform))
    return dense_gradient(e, to_probability, label, factor)
