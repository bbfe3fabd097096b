"""Weights and reductions of per-example losses, as ``tf.losses`` defines them.

A reduction is the weighted sum of the losses over a divisor, and 0 where the divisor is 0. Sums
are formed in float64, whatever the compute dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ._arrays import Array, is_float, shown
from ._device import DeviceArray


class Reduction:
    r"""How weighted losses become one number: the names of ``tf.losses.Reduction``.

    With losses :math:`x_i` and weights :math:`w_i` (broadcast), :math:`S = \sum_i w_i x_i`:

    ============================  ==============================================================
    ``NONE``                      each :math:`w_i x_i`
    ``SUM``                       :math:`S`
    ``MEAN``                      :math:`S / \sum_i w_i`
    ``SUM_OVER_BATCH_SIZE``       :math:`S / n`, with :math:`n` the number of losses
    ``SUM_BY_NONZERO_WEIGHTS``    :math:`S / |\{i : w_i \ne 0\}|`, the default
    ``SUM_OVER_NONZERO_WEIGHTS``  another name of it
    ============================  ==============================================================

    Where the divisor is 0, so is the result.

    Examples
    --------
    >>> import numba_xent as xent
    >>> xent.losses.Reduction.MEAN
    'weighted_mean'
    """

    NONE = "none"
    SUM = "weighted_sum"
    MEAN = "weighted_mean"
    SUM_OVER_BATCH_SIZE = "weighted_sum_over_batch_size"
    SUM_OVER_NONZERO_WEIGHTS = "weighted_sum_by_nonzero_weights"
    SUM_BY_NONZERO_WEIGHTS = SUM_OVER_NONZERO_WEIGHTS

    @classmethod
    def all(cls) -> tuple[str, ...]:
        """All keys, in TensorFlow's order (the last two are the same string).

        Returns
        -------
        tuple of str
            Six keys.

        Examples
        --------
        >>> import numba_xent as xent
        >>> len(xent.losses.Reduction.all())
        6
        """
        return (
            cls.NONE,
            cls.SUM,
            cls.MEAN,
            cls.SUM_OVER_BATCH_SIZE,
            cls.SUM_OVER_NONZERO_WEIGHTS,
            cls.SUM_BY_NONZERO_WEIGHTS,
        )

    @classmethod
    def validate(cls, key: object) -> None:
        """Refuse what is not a key.

        Parameters
        ----------
        key : str
            A member of the class, or the string that it stands for.

        Raises
        ------
        ValueError
            If it is neither.

        Examples
        --------
        >>> import numba_xent as xent
        >>> xent.losses.Reduction.validate("weighted_sum")
        """
        canonical_key(key)


_KEYS = Reduction.all()
_KNOWN = frozenset(_KEYS)


def canonical_key(key: object) -> str:
    """The key of :class:`Reduction` that is equal to `key`, which may be an array.

    Raises
    ------
    ValueError
        If there is none.
    """
    if type(key) is str and key in _KNOWN:
        return key
    try:
        for known in _KEYS:
            if key == known:
                return known
        told = str(key)
    except Exception:  # noqa: BLE001 - an array of several, or whatever an object's own == raises
        told = shown(key)
    raise ValueError(f"reduction: Invalid Reduction Key {told}. Key should be one of {_KEYS}.")


@dataclass(slots=True)
class Weighting:
    """Checked weights and what their reduction divides by.

    Attributes
    ----------
    weights
        In the compute dtype, broadcastable at equal rank to `shape`, or of rank 0.
    given
        The weights as they came, in their own dtype and shape.
    shape
        The shape of the losses.
    reduction
        A key of :class:`Reduction`.
    divisor
        What the sum is divided by, NaN where weights on a GPU decide it; None to return each loss.
    number
        The weight, if there is one for all losses and the host knows it.
    """

    weights: Array
    given: Array
    shape: tuple[int, ...]
    reduction: str
    divisor: float | None = field(init=False)
    number: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.divisor = self._divisor()
        one = self.weights.ndim == 0 and not isinstance(self.weights, DeviceArray)
        self.number = float(self.weights) if one else None

    def _divisor(self) -> float | None:
        size = math.prod(self.shape)
        if self.reduction == Reduction.NONE:
            return None
        if self.reduction == Reduction.SUM:
            return 1.0
        if self.reduction == Reduction.SUM_OVER_BATCH_SIZE:
            return float(size)
        if isinstance(self.weights, DeviceArray):
            return math.nan  # only the GPU knows
        repeats = size // self.weights.size if self.weights.size else 0
        if self.reduction == Reduction.MEAN:
            with np.errstate(all="ignore"):
                return float(self.weights.sum(dtype=np.float64)) * repeats if repeats else 0.0
        return float(np.count_nonzero(self.weights) * repeats)

    def apply(self, losses: Array, out: Array | None = None) -> Array:
        """Each loss times its weight, in the dtype of the losses; `out` may be the losses."""
        with np.errstate(all="ignore"):
            return np.asarray(np.multiply(losses, self.weights, out=out))

    def gradient(self) -> GradientOfWeights | None:
        """Memory for the gradient by the weights as they came; None if they are not floats."""
        return GradientOfWeights(self) if is_float(self.given) else None


class GradientOfWeights:
    """The gradient by weights, in memory that is all there before losses are computed.

    So a lack of memory is noticed before anything is written.
    """

    def __init__(self, weighting: Weighting) -> None:
        given, weights = weighting.given, weighting.weights
        self._weighting = weighting
        self._each = np.empty(weighting.shape)
        self._summed = None if weights.shape == weighting.shape else np.empty(weights.shape)
        self._gradient = np.empty(given.shape, given.dtype.newbyteorder("="))

    def of(self, losses: Array, total: float, upstream: Array | None) -> Array:
        """Compute it.

        Parameters
        ----------
        losses
            The unweighted losses.
        total
            Their weighted sum.
        upstream
            The upstream gradient, of the shape of the value.
        """
        each, divisor = self._each, self._weighting.divisor
        with np.errstate(all="ignore"):
            each[...] = losses if divisor != 0.0 else 0.0
            if divisor and self._weighting.reduction == Reduction.MEAN:
                each -= total / divisor
            if divisor != 0.0 and upstream is not None:
                each *= upstream
            if divisor:
                each /= divisor
            summed = sum_to_shape(each, self._weighting.weights.shape, self._summed)
            self._gradient[...] = summed.reshape(self._gradient.shape)
        return self._gradient


def sum_to_shape(gradient: Array, shape: tuple[int, ...], out: Array | None = None) -> Array:
    """The gradient of an array that was broadcast: summed over the axes that it was repeated on."""
    if gradient.shape == shape:
        return gradient
    if not shape:
        return np.asarray(gradient.sum(dtype=np.float64, out=out))
    axes = tuple(i for i, n in enumerate(shape) if n != gradient.shape[i])
    return np.asarray(gradient.sum(axis=axes, keepdims=True, dtype=np.float64, out=out))
