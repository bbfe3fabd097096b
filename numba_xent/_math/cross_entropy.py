r"""Softmax cross-entropy as a merge of partial states, and its gradients.

For logits :math:`z`, labels :math:`l` and any set of classes, the state is

.. math::

    m = \max_j z_j,\quad n = |\{j : z_j = m\}|,\quad r = \sum_{z_j < m} e^{z_j - m},

    t = \sum_j l_j (z_j - m),\quad q = \sum_j l_j,\quad u = \sum_j (z_j - m),\quad c = \sum_j 1.

States of disjoint sets merge by moving both to the larger maximum. The whole row then gives
:math:`\log s = \log(n + r)` and the loss :math:`q \log s - t = \sum_j l_j (\log s - (z_j - m))`.
Label smoothing is the same loss for :math:`l_j (1 - \epsilon) + \epsilon / c`, which needs no
smoothed labels: :math:`(1 - \epsilon)(q \log s - t) + (\epsilon / c)(c \log s - u)`.
The classes that attain the maximum are counted, not summed: when one class has nearly all the
probability, ``1 + r`` would round away what the loss is made of.

A class whose label is 0 adds nothing to :math:`t`, even if its logit is -inf (0, not 0 * inf). Rows
that hold NaN or +inf are known by their maximum, and those of nothing but -inf by ``n = 0``, since m
is at least the lowest finite number.

SIMD lanes, chunks of a row and threads all use these functions, on numbers or on vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compensated import accumulate, add_pairs, low_part, scale_pair, total_of, two_product
from .constants import constants
from .exponential import exp, exp_scaled, log_of_float32_sum, log_of_sum
from .primitives import fma, maximum, where


class State(NamedTuple):
    """What is known of a set of classes. Sums are pairs, see :mod:`.compensated`.

    Attributes
    ----------
    top
        m, the largest logit; at least the lowest finite number.
    count
        n, how many classes attain it.
    rest, rest_low
        r, the sum of ``exp(z - m)`` over the other classes.
    dot, dot_low
        t, the sum of ``label * (z - m)``.
    mass, mass_low
        q, the sum of the labels.
    drop, drop_low
        u, the sum of ``z - m``.
    size
        c, how many classes there are.
    """

    top: Any
    count: Any
    rest: Any
    rest_low: Any
    dot: Any
    dot_low: Any
    mass: Any
    mass_low: Any
    drop: Any
    drop_low: Any
    size: Any


class Finished(NamedTuple):
    """What a whole row has come to.

    Attributes
    ----------
    top
        m, the largest logit.
    log_sum
        ``log s``, with ``s`` the sum of ``exp(z - m)``; NaN for a row without a finite maximum.
    inverse
        ``1 / s``, NaN likewise.
    """

    top: Any
    log_sum: Any
    inverse: Any


def smooth(label: Any, keep: Any, uniform: Any) -> Any:
    """Label smoothing: ``label * (1 - smoothing) + smoothing / classes`` (1 and 0 for none)."""
    return fma(label, keep, uniform)


def exp_of_class(z: Any, m: Any) -> tuple[Any, Any]:
    """One class: ``d = z - m`` and ``2**bias * exp(d)``."""
    d = z - m
    return d, exp_scaled(d)


def is_below(d: Any) -> Any:
    """Whether a class does not attain the maximum."""
    return d < constants(d).zero


def exp_of_rest(below: Any, e: Any) -> Any:
    """What a class adds to r, scaled as `e` is."""
    return where(below, e, constants(e).zero)


def count_top(below: Any, count: Any) -> Any:
    """Add a class to n."""
    return where(below, count, count + constants(count).one)


def drop_below(below: Any, count: Any) -> Any:
    """Take a class off a number of classes, unless it attains m: from all of them, n is left."""
    return where(below, count - constants(count).one, count)


def add_label(d: Any, label: Any, dot: Any, mass: Any) -> tuple[Any, Any]:
    """Add a class to the sums over labels."""
    c = constants(d)
    return where(label != c.zero, fma(label, d, dot), dot), mass + label


def add_drop(d: Any, used: Any, scale: Any, drop: Any) -> Any:
    """Add a class to u, if it is one: scaled by ``2**-bias``, or a few large ones would overflow."""
    return where(used, fma(d, scale, drop), drop)


def move(state: State, m: Any) -> State:
    """The same classes, seen from a maximum that is not smaller."""
    shift = state.top - m
    factor = exp(shift)
    stays = shift == 0.0
    rest, rest_low = scale_pair(state.rest, state.rest_low, factor)
    rest, rest_low = accumulate(rest, rest_low, where(stays, 0.0, state.count * factor))
    moved, moved_low = scale_pair(state.mass, state.mass_low, shift)
    # Where no class has a label, there is nothing to move, be the distance infinite.
    unlabelled = state.mass == 0.0
    dot, dot_low = add_pairs(
        state.dot,
        state.dot_low,
        where(unlabelled, 0.0, moved),
        where(unlabelled, 0.0, low_part(moved, moved_low)),
    )
    moved, moved_low = two_product(state.size, shift)
    drop, drop_low = add_pairs(state.drop, state.drop_low, moved, low_part(moved, moved_low))
    return State(
        m,
        where(stays, state.count, 0.0),
        rest,
        rest_low,
        dot,
        dot_low,
        state.mass,
        state.mass_low,
        drop,
        drop_low,
        state.size,
    )


def merge(first: State, second: State) -> State:
    """The state of both sets of classes together."""
    m = maximum(first.top, second.top)
    a = move(first, m)
    b = move(second, m)
    rest, rest_low = add_pairs(a.rest, a.rest_low, b.rest, b.rest_low)
    dot, dot_low = add_pairs(a.dot, a.dot_low, b.dot, b.dot_low)
    mass, mass_low = add_pairs(a.mass, a.mass_low, b.mass, b.mass_low)
    drop, drop_low = add_pairs(a.drop, a.drop_low, b.drop, b.drop_low)
    return State(
        m,
        a.count + b.count,
        rest,
        rest_low,
        dot,
        dot_low,
        mass,
        mass_low,
        drop,
        drop_low,
        a.size + b.size,
    )


def finish(state: State) -> Finished:
    """Turn the state of a whole row into what loss and gradient need."""
    return finish_with(state, log_of_sum(state.count, state.rest, state.rest_low))


def finish_float32(state: State) -> Finished:
    """The same for a state of float32 terms."""
    return finish_with(state, log_of_float32_sum(state.count, state.rest))


def finish_with(state: State, log_sum: Any) -> Finished:
    """The same, given ``log(count + rest)`` where there is such a number."""
    valid = (state.top - state.top == 0.0) & (state.count > 0.0)
    s = where(valid, total_of(state.count + state.rest, state.rest_low), np.nan)
    return Finished(state.top, where(valid, log_sum, np.nan), 1.0 / s)


def dense_loss(state: State, row: Finished, keep: Any, uniform: Any) -> Any:
    """The loss for one label per class, smoothed to ``label * keep + uniform``."""
    own = fma(state.mass, row.log_sum, -state.dot)
    own = own + fma(
        low_part(state.mass, state.mass_low), row.log_sum, -low_part(state.dot, state.dot_low)
    )
    even = fma(state.size, row.log_sum, -state.drop) - low_part(state.drop, state.drop_low)
    # What counts for nothing is nothing, even if it is infinite.
    return where(keep == 0.0, 0.0, keep * own) + where(uniform == 0.0, 0.0, uniform * even)


def sparse_loss(z: Any, row: Finished) -> Any:
    """``log s - (z - m)``: the loss when `z` is the logit of the only label."""
    return row.log_sum - (z - row.top)


def class_loss(label: Any, z: Any, row: Finished) -> Any:
    """One class's term of the loss, formed as TensorFlow forms it; 0 where the label is 0."""
    return where(label == 0.0, 0.0, label * (row.log_sum - (z - row.top)))


def probability(z: Any, row: Finished) -> Any:
    """``exp(z - m) / s`` in float64."""
    return exp(z - row.top) * row.inverse


def dense_gradient(e: Any, to_probability: Any, label: Any, scale: Any) -> Any:
    """``scale * (p - label)``, with ``p = e * to_probability``: the derivative by the logit."""
    return fma(e, to_probability, -label) * scale


def sparse_gradient(e: Any, to_probability: Any, scale: Any) -> Any:
    """``scale * p``: the derivative by the logit of every class that is not the label."""
    return e * to_probability * scale


def sparse_label_gradient(p: Any, scale: Any) -> Any:
    """``scale * (p - 1)``: the derivative by the logit of the label's class."""
    return (p - 1.0) * scale


def label_gradient(z: Any, m: Any, log_sum: Any, scale: Any) -> Any:
    """``scale * (log s - (z - m))``: the derivative by the label, minus log-softmax."""
    return (log_sum - (z - m)) * scale
