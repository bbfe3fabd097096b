"""Every wrong call raises what it should, says what is wrong, and leaves no trace."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from calls import (
    FIRST_WRT,
    FUNCTIONS,
    LOGITS,
    NO_ARRAYS,
    ONE_HOT,
    RIGHT,
    SOFTMAX_LOSS,
    SPARSE,
    SPARSE_LOSS,
    V1,
    V2,
    WEIGHTED,
    zeros,
)

import numba_xent as xent

MISSING = object()
"""Stands for an argument that is left out."""


class Wrong(NamedTuple):
    """A call that differs from the right one, and what is to be raised."""

    fn: Callable
    changes: dict[str, Any]
    error: type[Exception]
    message: str


ARRAY_ARGUMENTS = [
    (fn, name)
    for fn, names in {
        V1: ("labels", "logits"),
        V2: ("labels", "logits"),
        SPARSE: ("labels", "logits"),
        SOFTMAX_LOSS: ("onehot_labels", "logits", "weights"),
        SPARSE_LOSS: ("labels", "logits", "weights"),
        WEIGHTED: ("losses", "weights"),
    }.items()
    for name in names
]
TABLE = [
    Wrong(fn, {name: value}, error, message.format(name))
    for fn, name in ARRAY_ARGUMENTS
    for value, error, message in NO_ARRAYS.values()
]

# --- dtypes

LOGITS_DTYPES = (np.int8, np.int32, np.int64, np.uint8, np.bool_, np.complex64, np.longdouble, "V4")
INDEX_DTYPES = (np.uint8, np.int8, np.int16, np.uint16, np.uint32, np.uint64, np.bool_)
INDEX_DTYPES += (np.float16, np.float32, np.float64, np.longdouble, np.complex64)
for _fn in (V1, V2, SPARSE, SOFTMAX_LOSS, SPARSE_LOSS):
    TABLE += [
        Wrong(
            _fn,
            {"logits": np.zeros((2, 3), dtype)},
            TypeError,
            rf"logits must have dtype float16, bfloat16, float32, float64, got "
            rf"{re.escape(str(np.dtype(dtype)))}",
        )
        for dtype in LOGITS_DTYPES
    ]
    TABLE.append(
        Wrong(_fn, {"logits": [[1, 2, 3], [0, 5, -1]]}, TypeError, "logits must have .*got int32")
    )
for _fn in (SPARSE, SPARSE_LOSS):
    TABLE += [
        Wrong(
            _fn,
            {"labels": np.zeros(2, dtype)},
            TypeError,
            f"labels must have dtype int32 or int64, got {np.dtype(dtype)}",
        )
        for dtype in INDEX_DTYPES
    ]
    TABLE.append(Wrong(_fn, {"labels": [2.0, 0.0]}, TypeError, "labels must have .*got float32"))

# --- shapes, axes and the rest of one argument


def _indices(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int32)


_BOTH = r"{} must have the shape of logits, {}, or length 1 .* got shape {}"
_CLASH = r"onehot_labels and logits: Shapes {} and {} are incompatible"
_NOT_BROADCAST = r"weights can not be broadcast to values.*weights.shape={}, losses.shape={}"


def _texts(template: str, *parts: Any) -> str:
    return template.format(*(re.escape(str(part)) for part in parts))


for _fn in (V1, V2):
    # Only length 1 at equal rank broadcasts, and only labels do.
    TABLE += [
        Wrong(_fn, {"labels": zeros(*labels), "logits": zeros(*logits)}, ValueError, message)
        for labels, logits in [
            ((2, 3, 3), (6, 3)),
            ((3, 2, 4), (2, 3, 4)),
            ((3,), (2, 3)),
            ((2,), (2, 3)),
            ((2, 3), (3,)),
            ((2, 3), (1, 3)),
            ((2, 3), (2, 1)),
            ((2, 2), (2, 3)),
            ((0, 3), (2, 3)),
            ((2, 0), (2, 3)),
            ((1, 2, 3), (2, 3)),
        ]
        for message in [_texts(_BOTH, "labels", logits, labels)]
    ]
    TABLE += [
        Wrong(_fn, {"logits": np.float32(1)}, ValueError, r"logits and labels must have rank 1"),
        Wrong(_fn, {"labels": 1.0}, ValueError, r"logits and labels must have rank 1.*\(2, 3\)"),
    ]
    for _axis in ("axis", "dim"):
        for _value in (2, 3, -3, -100, 10**30, np.int64(2), np.array(2)):
            TABLE.append(
                Wrong(
                    _fn,
                    {_axis: _value},
                    ValueError,
                    rf"{_axis} must be in \[-2, 2\) for logits of rank 2, got {_value}",
                )
            )
        for _value in (True, False, np.True_, "a", 1.0, np.float64(1), [1], (1,), np.array([1])):
            TABLE.append(
                Wrong(
                    _fn,
                    {_axis: _value},
                    TypeError,
                    rf"{_axis} must be an integer, got {re.escape(repr(_value))}",
                )
            )
    TABLE += [
        Wrong(_fn, {"axis": a, "dim": d}, ValueError, "Cannot specify both 'dim' and 'axis'")
        for a, d in [(0, 0), (-1, -1), (1, 0), ("a", 0)]
    ]

for _fn, _name in ((V1, ""), (SPARSE, "sparse_")):
    TABLE += [
        Wrong(
            _fn,
            {"_sentinel": sentinel},
            ValueError,
            f"_sentinel: Only call `{_name}softmax_cross_entropy_with_logits` with named arguments",
        )
        for sentinel in (0, "x", LOGITS)
    ]
    TABLE += [
        Wrong(
            _fn,
            dict.fromkeys(missing, value),
            ValueError,
            f"Both labels and logits must be provided. {' and '.join(missing)} must not be None",
        )
        for missing in (("labels",), ("logits",), ("labels", "logits"))
        for value in (None, MISSING)
    ]

for _fn in (SPARSE, SPARSE_LOSS):
    TABLE += [
        Wrong(_fn, {"labels": _indices(*labels), "logits": zeros(*logits)}, ValueError, message)
        for labels, logits, message in [
            ((3,), (2, 3), r"labels must have shape \(2,\).*\(2, 3\), got shape \(3,\)"),
            ((1,), (2, 3), r"labels must have shape \(2,\).*\(2, 3\), got shape \(1,\)"),
            ((3, 2), (2, 3, 4), r"labels must have shape \(2, 3\).*got shape \(3, 2\)"),
            ((), (2, 3), r"labels must have rank 1.*\(2, 3\), got shape \(\)"),
            ((2, 3), (2, 3), r"labels must have rank 1.*got shape \(2, 3\)"),
            ((2,), (2, 3, 4), r"labels must have rank 2.*got shape \(2,\)"),
            ((), (), r"logits cannot be a scalar"),
            ((2,), (2, 0), r"logits: Must have at least one class, but got logits shape \(2, 0\)"),
            ((0,), (0, 0), r"logits: Must have at least one class, but got logits shape \(0, 0\)"),
        ]
    ]
    TABLE += [
        Wrong(
            _fn,
            {"labels": np.array(labels, dtype)},
            ValueError,
            rf"labels: Received a label value of {named} which is outside the valid range of "
            rf"\[0, 3\)\.  Label values: {labels[0]} {labels[1]}$",
        )
        for dtype in (np.int32, np.int64, ">i4", ">i8")
        for labels, named in [
            ((3, 0), 3),
            ((0, -1), -1),
            ((-2, 7), -2),
            ((2**31 - 1, 2), 2**31 - 1),
            ((1, -(2**31)), -(2**31)),
        ]
    ]
    TABLE += [
        Wrong(_fn, {"labels": np.array([0, value])}, ValueError, f"label value of {value} which")
        for value in (2**32, 2**32 + 1, -(2**32), 2**63 - 1, -(2**63))
    ]

TABLE.append(Wrong(SPARSE, {"labels": [[2], [1]]}, ValueError, "labels must have rank 1"))

# No broadcasting at all, and other shapes than the logits' are named before anything else.
TABLE += [
    Wrong(
        SOFTMAX_LOSS,
        {"onehot_labels": zeros(*labels), "logits": zeros(*logits)},
        ValueError,
        _texts(_CLASH, labels, logits),
    )
    for labels, logits in [
        ((1, 3), (2, 3)),
        ((3,), (2, 3)),
        ((2, 1), (2, 3)),
        ((2, 3, 3), (6, 3)),
        ((), (2, 3)),
    ]
]
TABLE += [
    Wrong(
        SOFTMAX_LOSS,
        {"onehot_labels": 1.0, "logits": 1.0},
        ValueError,
        r"logits and onehot_labels must have rank 1 or more",
    )
]
TABLE += [
    Wrong(SOFTMAX_LOSS, {"label_smoothing": value}, TypeError, "label_smoothing must be a number")
    for value in (
        None,
        "a",
        "0.1",
        [0.1],
        (0.1,),
        1j,
        np.complex64(1),
        np.array("0.1"),
        np.array(None),
        object(),
        {},
        np.ma.masked,
    )
]
TABLE += [
    Wrong(
        SOFTMAX_LOSS,
        {"label_smoothing": np.zeros(shape)},
        ValueError,
        rf"label_smoothing must be one number, got an array of shape {re.escape(str(shape))}",
    )
    for shape in ((2,), (0,), (1, 3))
]
TABLE.append(
    Wrong(SOFTMAX_LOSS, {"label_smoothing": 10**400}, ValueError, "label_smoothing .*too large")
)

for _fn in (SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED):
    TABLE += [
        Wrong(_fn, {"reduction": value}, ValueError, f"reduction: .*{named}.*weighted_mean")
        for value, named in [
            ("mean", "mean"),
            ("NONE", "NONE"),
            ("", ""),
            (None, "None"),
            (0, "0"),
            (["none"], "none"),
            (np.array(["none", "none"]), "none"),
            (np.array("other"), "other"),
        ]
    ]
TABLE += [
    Wrong(
        WEIGHTED,
        {"losses": zeros(*losses), "weights": zeros(*weights)},
        ValueError,
        _texts(_NOT_BROADCAST, weights, losses),
    )
    for losses, weights in [
        ((3,), (2,)),
        ((3,), (0,)),
        ((3,), (3, 1)),
        ((3,), (1, 3)),
        ((3,), (1, 1)),
        ((3,), (3, 3)),
        ((2, 3), (2,)),
        ((2, 3), (3,)),
        ((2, 3), (1,)),
        ((2, 3), (2, 3, 1)),
        ((2, 3), (3, 2)),
        ((), (1,)),
        ((0,), (2,)),
    ]
]
TABLE += [
    Wrong(SOFTMAX_LOSS, {"weights": zeros(*w)}, ValueError, _texts(_NOT_BROADCAST, w, (2,)))
    for w in [(3,), (2, 1), (1, 1), (0,)]
]
TABLE += [
    Wrong(
        SOFTMAX_LOSS,
        {"onehot_labels": zeros(2, 4, 3), "logits": zeros(2, 4, 3), "weights": zeros(2)},
        ValueError,
        _texts(_NOT_BROADCAST, (2,), (2, 4)),
    ),
    Wrong(
        SPARSE_LOSS,
        {"weights": zeros(2, 3)},
        ValueError,
        r"weights: Can not squeeze dim\[1\], expected a dimension of 1, got 3.*\(2, 3\).*\(2,\)",
    ),
    Wrong(SPARSE_LOSS, {"weights": zeros(3)}, ValueError, _texts(_NOT_BROADCAST, (3,), (2,))),
    Wrong(
        SPARSE_LOSS,
        {"weights": zeros(2, 1, 1)},
        ValueError,
        "weights can not be broadcast to values",
    ),
]

# --- arguments left out or unknown: Python's own words

TABLE += [
    Wrong(fn, {name: MISSING}, TypeError, f"missing 1 required positional argument: '{name}'")
    for fn, name in [
        (V2, "labels"),
        (V2, "logits"),
        (SOFTMAX_LOSS, "onehot_labels"),
        (SOFTMAX_LOSS, "logits"),
        (SPARSE_LOSS, "labels"),
        (SPARSE_LOSS, "logits"),
        (WEIGHTED, "losses"),
    ]
]
TABLE += [Wrong(fn, {"weigths": 1.0}, TypeError, "unexpected keyword.*weigths") for fn in FUNCTIONS]
TABLE += [Wrong(SPARSE, {"axis": 0}, TypeError, "unexpected keyword.*axis")]
TABLE += [Wrong(SPARSE_LOSS, {"label_smoothing": 0}, TypeError, "unexpected .*label_smoothing")]

# --- what is checked first

_RAGGED = NO_ARRAYS["ragged"][0]
_INTS = LOGITS.astype(int)
TABLE += [
    # nn: axis and dim, sentinel, missing, conversion, the rest
    Wrong(V1, {"axis": 0, "dim": 0, "_sentinel": 0}, ValueError, "Cannot specify both"),
    Wrong(V1, {"axis": 0, "dim": 0, "labels": None}, ValueError, "Cannot specify both"),
    Wrong(V1, {"_sentinel": 0, "labels": None}, ValueError, "Only call"),
    Wrong(SPARSE, {"_sentinel": 0, "labels": None}, ValueError, "Only call"),
    Wrong(V1, {"labels": None, "logits": "a"}, ValueError, "must be provided. labels must"),
    Wrong(SPARSE, {"labels": "a", "logits": None}, ValueError, "must be provided. logits must"),
    Wrong(V1, {"labels": "a", "logits": _INTS}, TypeError, "labels must be an array"),
    Wrong(V1, {"logits": _RAGGED, "axis": 7}, ValueError, "logits must be a rectangular"),
    Wrong(V2, {"axis": 0, "dim": 0, "labels": None}, ValueError, "Cannot specify both"),
    # losses.softmax_cross_entropy
    Wrong(SOFTMAX_LOSS, {"onehot_labels": None, "logits": None}, ValueError, "onehot_labels must"),
    Wrong(SOFTMAX_LOSS, {"onehot_labels": "a", "logits": None}, ValueError, "logits must not be"),
    Wrong(SOFTMAX_LOSS, {"onehot_labels": "a", "logits": LOGITS[0]}, TypeError, "onehot_labels"),
    Wrong(SOFTMAX_LOSS, {"logits": LOGITS[0], "label_smoothing": "a"}, ValueError, "Shapes"),
    Wrong(SOFTMAX_LOSS, {"logits": LOGITS[0], "reduction": "a"}, ValueError, "Shapes"),
    Wrong(SOFTMAX_LOSS, {"logits": _INTS[0]}, ValueError, "Shapes"),
    Wrong(SOFTMAX_LOSS, {"logits": _INTS, "label_smoothing": "a"}, TypeError, "label_smoothing"),
    Wrong(SOFTMAX_LOSS, {"logits": _INTS, "reduction": "a"}, TypeError, "logits must have dtype"),
    Wrong(SOFTMAX_LOSS, {"reduction": "a", "weights": None}, ValueError, "reduction"),
    Wrong(SOFTMAX_LOSS, {"reduction": "a", "weights": zeros(5)}, ValueError, "reduction"),
    # losses.sparse_softmax_cross_entropy
    Wrong(SPARSE_LOSS, {"labels": None, "logits": None}, ValueError, "labels must not be None"),
    Wrong(SPARSE_LOSS, {"labels": "a", "logits": None}, ValueError, "logits must not be None"),
    Wrong(SPARSE_LOSS, {"labels": [0, 1, 2], "reduction": "a"}, ValueError, "labels must have"),
    Wrong(SPARSE_LOSS, {"labels": [0, 1, 2], "weights": None}, ValueError, "labels must have"),
    Wrong(SPARSE_LOSS, {"logits": _INTS, "reduction": "a"}, TypeError, "logits must have dtype"),
    Wrong(SPARSE_LOSS, {"reduction": "a", "weights": None}, ValueError, "reduction"),
    Wrong(SPARSE_LOSS, {"reduction": "a", "weights": zeros(5)}, ValueError, "reduction"),
    # losses.compute_weighted_loss
    Wrong(WEIGHTED, {"reduction": "a", "weights": None, "losses": None}, ValueError, "reduction"),
    Wrong(WEIGHTED, {"weights": None, "losses": None}, ValueError, "weights must not be None"),
    Wrong(WEIGHTED, {"weights": "a", "losses": None}, TypeError, "weights must be an array"),
    Wrong(WEIGHTED, {"weights": zeros(5), "losses": "a"}, TypeError, "losses must be an array"),
]


NAMES = [f"{i}-{wrong.fn.__name__}-{'-'.join(wrong.changes)}" for i, wrong in enumerate(TABLE)]


def arguments(wrong: Wrong) -> dict[str, Any]:
    """The keywords of a wrong call."""
    every = RIGHT[wrong.fn] | wrong.changes
    return {name: value for name, value in every.items() if value is not MISSING}


def bits_of(values: dict[str, Any]) -> dict[str, bytes]:
    """What lies in the memory of the arrays."""
    return {
        k: v.tobytes()
        for k, v in values.items()
        if isinstance(v, np.ndarray) and v is not np.ma.masked
    }


@pytest.mark.parametrize("wrong", TABLE, ids=NAMES)
def test_wrong_call(wrong: Wrong) -> None:
    """The error and its text are right, and nothing has been written or collected.

    Warnings are errors here, so none is emitted either.
    """
    kwargs = arguments(wrong)
    first = FIRST_WRT[wrong.fn]
    before = bits_of(kwargs)
    with xent.losses.collecting():
        with pytest.raises(wrong.error, match=f"(?s){wrong.message}"):
            wrong.fn(**kwargs)
        out = np.full_like(RIGHT[wrong.fn][first], 7)
        if isinstance(kwargs.get(first), np.ndarray):  # so that `out` is no mistake of its own
            out = np.full(kwargs[first].shape, 7, kwargs[first].dtype.newbyteorder("="), order="C")
        untouched = out.tobytes()
        with pytest.raises(wrong.error, match=f"(?s){wrong.message}"):
            xent.value_and_grad(wrong.fn, wrt=first)(**kwargs, out=out)
        assert out.tobytes() == untouched
        assert xent.losses.get_losses() == []
    assert bits_of(kwargs) == before


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_right_call(fn: Callable) -> None:
    """What the wrong calls are made from is right: it is the change that makes them wrong."""
    first = FIRST_WRT[fn]
    out = np.full_like(RIGHT[fn][first], 7)
    with xent.losses.collecting():
        fn(**RIGHT[fn])
        value, gradient = xent.value_and_grad(fn, wrt=first)(**RIGHT[fn], out=out)
        assert len(xent.losses.get_losses()) == (0 if fn in (V1, V2, SPARSE) else 2)
    assert np.isfinite(value).all()
    assert gradient is out
    assert (out != 7).all()


# --- positional arguments


@pytest.mark.parametrize("fn", [V1, SPARSE])
def test_positional_arguments_of_v1(fn: Callable) -> None:
    """They meet the sentinel, unless None takes its place."""
    labels, logits = RIGHT[fn].values()
    with pytest.raises(ValueError, match=r"Only call .* with named arguments"):
        fn(labels, logits)
    with pytest.raises(ValueError, match=r"Only call .* with named arguments"):
        xent.value_and_grad(fn)(labels, logits)
    assert np.array_equal(fn(None, labels, logits), fn(labels=labels, logits=logits))


def test_too_many_positional_arguments() -> None:
    """`upstream` and `out` have no position."""
    with pytest.raises(TypeError, match=r"takes .* positional arguments"):
        xent.value_and_grad(V2)(ONE_HOT, LOGITS, None, None, None, None, LOGITS)


# --- labels out of range


@pytest.mark.parametrize("fn", [SPARSE, SPARSE_LOSS])
def test_one_bad_label_among_many(fn: Callable) -> None:
    """It is found by parallel kernels too, before anything is written; few labels are listed."""
    logits = np.zeros((20_000, 10), np.float32)
    labels = np.zeros(20_000, np.int64)
    labels[19_999] = 10
    out = np.full_like(logits, 7)
    with pytest.raises(ValueError, match=r"label value of 10 .*\[0, 10\)") as info:
        xent.value_and_grad(fn)(labels=labels, logits=logits, out=out)
    assert (out == 7).all()
    assert len(str(info.value)) < 10_000
    out = logits
    with pytest.raises(ValueError, match="label value of 10"):
        xent.value_and_grad(fn)(labels=labels, logits=logits, out=out)
    assert (logits == 0).all()


def test_zero_weight_does_not_excuse_a_bad_label() -> None:
    """Labels are checked before anything is weighted."""
    with pytest.raises(ValueError, match="label value of 3"):
        SPARSE_LOSS([3, 0], LOGITS, weights=[0.0, 1.0])
