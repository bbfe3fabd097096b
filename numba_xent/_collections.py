"""Loss collections, names and scopes, as TensorFlow's graph mode has them.

Outside of :func:`collecting` nothing is kept, as in TensorFlow's eager mode. Inside, each loss
function adds its result under a name made of its scope. What is collected belongs to the thread or
task that opened the context (:mod:`contextvars`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._arrays import as_array, is_a, shown
from ._device import DeviceArray
from ._dispatch import cuda_backend

LOSSES = "losses"
REGULARIZATION_LOSSES = "regularization_losses"

_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


@dataclass(frozen=True, slots=True, eq=False)
class NamedLoss:
    """A collected loss: its value, and the name that TensorFlow would give it.

    Parameters
    ----------
    name : str
        Such as ``"softmax_cross_entropy_loss/value:0"``.
    value : numpy.ndarray or scalar
        What the loss function returned.

    Examples
    --------
    >>> import numba_xent as xent
    >>> with xent.losses.collecting():
    ...     value = xent.losses.compute_weighted_loss([1.0, 3.0])
    ...     (loss,) = xent.losses.get_losses()
    >>> loss.name, float(loss)
    ('weighted_loss/value:0', 2.0)
    """

    name: str
    value: Any

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """The value, for NumPy functions."""
        return np.array(self.value, dtype=dtype, copy=copy)

    def __float__(self) -> float:
        """The value of a reduced loss."""
        return float(self.value)


@dataclass(slots=True)
class _Store:
    collections: dict[Hashable, list[Any]] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)

    def unique(self, name: str) -> str:
        """The name, or the name with the first free number."""
        uses = self.names.get(name.lower(), 0)
        self.names[name.lower()] = uses + 1
        if uses == 0:
            return name
        while (candidate := f"{name}_{uses}").lower() in self.names:
            uses += 1
        self.names[candidate.lower()] = 1
        return candidate


_current: ContextVar[_Store | None] = ContextVar("numba_xent_losses", default=None)


@contextmanager
def collecting() -> Iterator[None]:
    """Collect losses inside a ``with`` block, as TensorFlow's graph mode does.

    A nested block starts empty and leaves the outer one as it was.

    Yields
    ------
    None

    Examples
    --------
    >>> import numba_xent as xent
    >>> with xent.losses.collecting():
    ...     value = xent.losses.softmax_cross_entropy([[0.0, 1.0]], [[1.0, 2.0]], scope="head")
    ...     [loss.name for loss in xent.losses.get_losses()]
    ['head/value:0']
    """
    outer = _current.get()
    try:
        _current.set(_Store())  # within, as Ctrl-C is seen as soon as it has been done
        yield
    finally:
        _current.set(outer)


def is_collecting() -> bool:
    """Whether losses are collected."""
    return _current.get() is not None


def check_names(scope: Any, loss_collection: Any) -> None:
    """Refuse, while losses are collected, a scope or collection that none can be filed under.

    Raises
    ------
    TypeError
        If the scope is not a string or the collection is not hashable.
    ValueError
        If the scope is not a valid name.
    """
    if not is_collecting():
        return
    if scope is not None and not is_a(scope, str):
        raise TypeError(f"scope must be a string, got {shown(scope)}")
    if scope and not _SCOPE.fullmatch(scope):
        raise ValueError(f"scope: {scope!r} is not a valid scope name")
    if type(loss_collection) is not str:
        _check_key(loss_collection)


def _check_key(key: Any) -> None:
    try:
        if key:
            hash(key)
    except Exception:  # noqa: BLE001 - an object's own __hash__ may raise anything
        raise TypeError(f"loss_collection must be hashable, got {shown(key)}") from None


def collect(value: Any, scope: str | None, default: str, last: str, loss_collection: Any) -> None:
    """Add what a loss function returns, named ``scope/last:0``, if losses are collected."""
    store = _current.get()
    if store is None:
        return
    scope = default if scope is None else scope
    prefix = scope if scope == "" or scope.endswith("/") else store.unique(scope) + "/"
    add_loss(NamedLoss(store.unique(prefix + last) + ":0", value), loss_collection)


def add_loss(loss: Any, loss_collection: Hashable = LOSSES) -> None:
    """Add a loss, or any object, to a collection.

    Parameters
    ----------
    loss : object
        What to add. A ``name`` attribute lets it be found by scope.
    loss_collection : hashable, optional
        The key of the collection; nothing is added if it is None or otherwise false.

    Raises
    ------
    TypeError
        If the key is not hashable (inside :func:`collecting`; outside nothing happens at all).

    Examples
    --------
    >>> import numba_xent as xent
    >>> with xent.losses.collecting():
    ...     xent.losses.add_loss(0.5)
    ...     xent.losses.get_losses()
    [0.5]
    """
    store = _current.get()
    if store is None or not loss_collection:
        return
    _check_key(loss_collection)
    store.collections.setdefault(loss_collection, []).append(loss)


def get_losses(scope: str | None = None, loss_collection: Hashable = LOSSES) -> list[Any]:
    """The losses of a collection, in the order in which they were added.

    Parameters
    ----------
    scope : str, optional
        A regular expression: only losses whose name it matches, from the start, are returned, and
        none that has no name.
    loss_collection : hashable, optional
        The key of the collection.

    Returns
    -------
    list
        A new list; empty outside of :func:`collecting`.

    Raises
    ------
    TypeError
        If the key is not hashable.
    re.error
        If the scope is not a regular expression.

    Examples
    --------
    >>> import numba_xent as xent
    >>> xent.losses.get_losses()
    []
    """
    _check_key(loss_collection)
    store = _current.get()
    items = [] if store is None else store.collections.get(loss_collection, [])
    if scope is None:
        return list(items)
    pattern = re.compile(scope)
    return [item for item in items if _name(item) is not None and pattern.match(_name(item) or "")]


def _name(item: Any) -> str | None:
    name = getattr(item, "name", None)
    return name if isinstance(name, str) else None


def get_regularization_losses(scope: str | None = None) -> list[Any]:
    """The losses added to the collection ``"regularization_losses"``.

    Parameters
    ----------
    scope : str, optional
        As in :func:`get_losses`.

    Returns
    -------
    list
        A new list.

    Examples
    --------
    >>> import numba_xent as xent
    >>> xent.losses.get_regularization_losses()
    []
    """
    return get_losses(scope, REGULARIZATION_LOSSES)


def get_regularization_loss(
    scope: str | None = None, name: str = "total_regularization_loss"
) -> Any:
    """The sum of the regularization losses, 0 if there are none.

    Parameters
    ----------
    scope : str, optional
        As in :func:`get_losses`.
    name : str, optional
        Ignored.

    Returns
    -------
    numpy.ndarray or scalar
        The sum.

    Raises
    ------
    TypeError
        If the losses have different dtypes.
    ValueError
        If they have different shapes.

    Examples
    --------
    >>> import numba_xent as xent
    >>> float(xent.losses.get_regularization_loss())
    0.0
    """
    losses = get_regularization_losses(scope)
    return _total(losses) if losses else np.float32(0.0)


def get_total_loss(
    add_regularization_losses: bool = True, name: str = "total_loss", scope: str | None = None
) -> Any:
    """The sum of the collected losses, and of the regularization losses if wanted.

    Parameters
    ----------
    add_regularization_losses : bool, optional
        Whether to add them.
    name : str, optional
        Ignored.
    scope : str, optional
        As in :func:`get_losses`; for both kinds of losses.

    Returns
    -------
    numpy.ndarray or scalar
        The sum. It is not added to the collection.

    Raises
    ------
    TypeError
        If the losses have different dtypes.
    ValueError
        If they have different shapes, or there are none.

    Examples
    --------
    >>> import numba_xent as xent
    >>> with xent.losses.collecting():
    ...     a = xent.losses.compute_weighted_loss([1.0, 3.0])
    ...     b = xent.losses.compute_weighted_loss([2.0])
    ...     float(xent.losses.get_total_loss())
    4.0
    """
    losses = get_losses(scope)
    if add_regularization_losses:
        losses += get_regularization_losses(scope)
    if not losses:
        raise ValueError(
            "losses: there is none to add up; inputs must be a list of at least one loss, collected"
            " inside `with losses.collecting():`"
        )
    return _total(losses)


def _total(losses: list[Any]) -> Any:
    values = [item.value if isinstance(item, NamedLoss) else item for item in losses]
    arrays = [as_array(value, "losses") for value in values]
    first = arrays[0]
    for array in arrays[1:]:
        if array.dtype != first.dtype:
            raise TypeError(f"losses must have one dtype, got {first.dtype} and {array.dtype}")
        if array.shape != first.shape:
            raise ValueError(f"losses must have one shape, got {first.shape} and {array.shape}")
    if any(isinstance(array, DeviceArray) for array in arrays):
        return cuda_backend().total(arrays)
    total = first.copy()
    with np.errstate(all="ignore"):
        for array in arrays[1:]:
            total = np.asarray(total + array)
    return total[()]
