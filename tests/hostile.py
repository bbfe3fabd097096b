"""Objects that stand for an array and behave badly, and ways to spoil each argument of a call."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from calls import NO_ARRAYS, SOFTMAX_LOSS, SPARSE, SPARSE_LOSS, V1, V2, WEIGHTED


def shown(value: Any) -> str:
    """How an object shows itself, if it does."""
    try:
        return repr(value)[:200]
    except Exception as error:  # noqa: BLE001 - hostile objects raise anything
        return f"<repr raises {type(error).__name__}>"


# --- harmless: the same array behind another object


class Subclass(np.ndarray):
    """A subclass of somebody's."""


class ByMethod:
    """An array behind ``__array__``."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Hand out the array."""
        return self.values


class ByInterface:
    """An array behind ``__array_interface__``."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.__array_interface__ = values.__array_interface__


class ByDlpack:
    """An array behind ``__dlpack__``."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __dlpack__(self, **kwargs: Any) -> Any:
        """Hand out a capsule."""
        return self.values.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Say that it lies in host memory."""
        return self.values.__dlpack_device__()


# --- hostile


class UnspeakableError(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("str")

    __repr__ = __str__


class Raises:
    """Raises something at every protocol."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def _raise(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error

    __array__ = __len__ = __iter__ = __getitem__ = __float__ = __index__ = __bool__ = _raise
    __eq__ = __hash__ = __repr__ = __str__ = __format__ = _raise
    __dlpack__ = __dlpack_device__ = _raise


class RaisesAttribute:
    """Raises when it is asked for any attribute."""

    def __init__(self, error: BaseException) -> None:
        object.__setattr__(self, "error", error)

    def __getattribute__(self, name: str) -> Any:
        raise object.__getattribute__(self, "error")


class NoArray:
    """``__array__`` that returns something else."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Hand out no array."""
        return self.value


class Interface:
    """An ``__array_interface__`` of one's own making."""

    def __init__(self, interface: Any) -> None:
        self.__array_interface__ = interface

    def __repr__(self) -> str:
        return f"Interface({self.__array_interface__})"


class Dlpack:
    """A ``__dlpack__`` that hands out no capsule, or names another device."""

    def __init__(self, capsule: Any, device: Any) -> None:
        self.capsule, self.device = capsule, device

    def __dlpack__(self, **kwargs: Any) -> Any:
        """Hand out what was given."""
        return self.capsule

    def __dlpack_device__(self) -> Any:
        """Say what was given."""
        return self.device


class EqualToAll:
    """Is equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


class Liar(np.ndarray):
    """An array that lies about its shape, strides and flags."""

    claimed: tuple[int, ...] = (2, 3)

    shape = property(lambda self: self.claimed)  # type: ignore[assignment]
    strides = property(lambda self: (4096,) * len(self.claimed))  # type: ignore[assignment]
    ndim = property(lambda self: len(self.claimed))  # type: ignore[assignment]


def liar(true: np.ndarray, claimed: tuple[int, ...]) -> np.ndarray:
    """An array that says that it has a shape that it does not have."""
    array = true.view(Liar)
    array.__dict__["claimed"] = claimed
    return array


class EndlessList(list):
    """A list whose iterator never ends."""

    def __iter__(self) -> Any:
        while True:
            yield 1.0


def recursive() -> list[Any]:
    """A list that holds itself."""
    own: list[Any] = []
    own.append(own)
    return own


def deep(levels: int = 5000) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = [1.0]
    for _ in range(levels):
        value = [value]
    return value


_SIX = np.zeros(6, np.float32)


def interface(**changes: Any) -> Interface:
    """A faulty description of six float32."""
    return Interface({**_SIX.__array_interface__, **changes})


def huge(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An enormous array of a single number."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def errors() -> list[Exception]:
    """What a hostile object may raise."""
    return [
        RuntimeError("no"),
        KeyError("x"),
        AttributeError("x"),
        OSError(2, "x"),
        UnspeakableError(),
    ]


def no_array(r: random.Random) -> Any:
    """Something that no array can be made of."""
    error = r.choice(errors())
    makers: list[Callable[[], Any]] = [
        *(lambda value=value: value for value, *_ in NO_ARRAYS.values()),
        lambda: Raises(error),
        lambda: RaisesAttribute(error),
        lambda: NoArray(r.choice((None, 1, "x", [1.0], object(), Raises(error)))),
        lambda: interface(shape=(-1, 3)),
        lambda: interface(shape=(2**62, 2**62)),
        lambda: interface(shape="x"),
        lambda: interface(typestr="O"),
        lambda: interface(typestr="<q9"),
        lambda: interface(strides=(4, 4)),
        lambda: Interface(None),
        lambda: Interface({}),
        lambda: Interface({"version": 3}),
        lambda: Dlpack(None, (1, 0)),
        lambda: Dlpack(object(), (2, 0)),
        lambda: Dlpack(0, None),
        recursive,
        deep,
        object,
        lambda: object,
        lambda: {1.0, 2.0},
        lambda: (x for x in (1.0, 2.0)),
        lambda: np.zeros((2, 3), "V8"),
        lambda: np.array([[{}, []]], object),
        lambda: np.zeros((2, 3), "S4"),
        lambda: np.zeros(3, [("x", "f4"), ("y", "O")]),
        lambda: [object()],
        lambda: [[1.0], 2.0],
        lambda: [Raises(error)],
        lambda: [np.zeros(3), np.zeros(2)],
        dict,
        lambda: np.ma.masked,
        lambda: np.ma.zeros((2, 3)),
        lambda: 10**400,
        lambda: [10**400, 1.0],
        lambda: "\ud800",
        lambda: NotImplemented,
        lambda: ...,
    ]
    return r.choice(makers)()


# --- ways to spoil a call

Way = Callable[[], tuple[str, Any]]


def ways(
    r: random.Random,
    fn: Callable[..., Any],
    names: list[str],
    operands: dict[str, np.ndarray],
    wrt: Any,
) -> list[Way]:
    """Ways to make one argument of a valid call wrong, which has these arrays as its operands."""
    found: list[Way] = [lambda: (r.choice(names), no_array(r)) for _ in range(4)]
    shape = operands["logits"].shape if "logits" in operands else operands["losses"].shape
    if fn is not WEIGHTED:
        found.append(lambda: ("logits", wrong_logits(r, shape)))
    if fn in (SPARSE, SPARSE_LOSS):
        found += [lambda: ("labels", wrong_classes(r, shape))] * 2
    elif fn is not WEIGHTED:
        labels = "onehot_labels" if fn is SOFTMAX_LOSS else "labels"
        found.append(lambda: (labels, wrong_shape(r, shape)))
    if fn in (V1, V2):
        found.append(lambda: (r.choice(("axis", "dim")), wrong_axis(r, len(shape))))
    if fn in (SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED):
        found += [
            lambda: ("reduction", wrong_key(r)),
            lambda: ("weights", wrong_shape(r, (*shape, 2, 2))),
            lambda: ("scope", r.choice((1, 1.5, b"x", [1], Raises(RuntimeError("no"))))),
            lambda: ("loss_collection", r.choice(([1], {"a": 1}, Raises(RuntimeError("no"))))),
        ]
    if fn is SOFTMAX_LOSS:
        found.append(lambda: ("label_smoothing", wrong_number(r)))
    if wrt is not None:
        found.append(lambda: ("upstream", wrong_upstream(r, shape)))
        if not isinstance(wrt, tuple):
            found += [lambda: ("out", wrong_out(r, operands[wrt]))] * 2
    return found


def wrong_logits(r: random.Random, shape: tuple[int, ...]) -> Any:
    """Arrays of a dtype that logits cannot have, or single numbers."""
    dtype = r.choice(("i4", "i8", "?", "c8", "c16", "g", "u1", "M8[s]", "m8[s]", "U1", "O", "V4"))
    return r.choice((np.zeros(shape, dtype), 1.0, np.float32(2), 1, huge((2**40, 2**18), dtype)))


def wrong_classes(r: random.Random, shape: tuple[int, ...]) -> Any:
    """Class numbers out of range, of a wrong dtype or shape."""
    batch, classes = shape[:-1], shape[-1]
    labels = np.zeros(batch, r.choice(("i4", "i8")))
    if labels.size:
        at = r.randrange(labels.size)
        labels.flat[at] = r.choice(
            (-1, classes, classes + 1, np.iinfo(labels.dtype).min, np.iinfo(labels.dtype).max)
        )
    else:
        labels = np.zeros((*batch, 2), "i4")
    return r.choice((labels, labels, labels.astype("f4"), labels.astype("u8"), np.zeros((3, 1, 2))))


def wrong_shape(r: random.Random, shape: tuple[int, ...]) -> Any:
    """Numbers whose shape neither is nor can be broadcast to a shape."""
    longer = tuple(n + 2 for n in shape)
    return r.choice(
        (
            np.zeros(longer, "f4"),
            np.zeros((*longer, 2), "f4"),
            huge((2**34, *longer), "f4"),
            huge((*longer[:-1], 2**36), "f2"),
            np.zeros((0, *longer), "f4"),
            liar(np.zeros(longer, "f4"), shape),
        )
    )


def wrong_axis(r: random.Random, rank: int) -> Any:
    """No axis of an array of this rank."""
    return r.choice(
        (
            rank,
            -rank - 1,
            2**31,
            -(2**63),
            10**30,
            True,
            1.0,
            "0",
            [0],
            (),
            np.array([0]),
            1j,
            Raises(RuntimeError("no")),
            RaisesAttribute(RuntimeError("no")),
            np.float64("nan"),
        )
    )


def wrong_key(r: random.Random) -> Any:
    """No key of a reduction."""
    return r.choice(
        (
            "mean",
            "",
            None,
            0,
            b"none",
            ["none"],
            np.array(["none", "x"]),
            chr(0xD800),
            object(),
            Raises(RuntimeError("no")),
            Raises(UnspeakableError()),
            np.zeros(3),
            np.ma.masked,
        )
    )


def wrong_number(r: random.Random) -> Any:
    """No single real number."""
    return r.choice(
        (
            "0.1",
            None,
            1j,
            [0.1],
            np.zeros(2),
            np.array("x"),
            10**400,
            np.ma.masked,
            object(),
            Raises(RuntimeError("no")),
            RaisesAttribute(OSError(1, "x")),
            np.array(None),
        )
    )


def wrong_upstream(r: random.Random, shape: tuple[int, ...]) -> Any:
    """No upstream gradient for any value."""
    value = no_array(r)
    if value is None:
        value = "x"
    return r.choice((value, np.zeros((*shape, 5, 5), "f4"), huge((2**40, 2**20), "f4")))


def wrong_out(r: random.Random, like: np.ndarray) -> Any:
    """No place for the gradient by an operand."""
    longer = tuple(n + 1 for n in like.shape) or (2,)
    frozen = np.zeros(like.shape, like.dtype)
    frozen.flags.writeable = False
    repeated = np.lib.stride_tricks.as_strided(
        np.zeros(1, like.dtype), (*longer[:-1], 3), (0,) * len(longer)
    )
    return r.choice(
        (
            np.zeros(longer, like.dtype),
            np.zeros((*like.shape, 1), like.dtype),
            np.zeros(like.shape, "i8"),
            np.zeros(like.shape, "c16"),
            frozen,
            repeated,
            np.ma.zeros(like.shape, like.dtype),
            liar(np.zeros(longer, like.dtype), like.shape),
            [0.0],
            "x",
            1.0,
            ((),),
            object(),
            ByMethod(np.zeros(like.shape, like.dtype)),
            Raises(RuntimeError("no")),
            RaisesAttribute(RuntimeError("no")),
        )
    )
