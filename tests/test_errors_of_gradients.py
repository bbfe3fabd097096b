"""Wrong ways to ask for a gradient: `fn`, `wrt`, `upstream` and `out`."""

import functools
from collections.abc import Callable
from typing import Any

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
    Cuda,
    zeros,
)

import numba_xent as xent
from numba_xent.losses import Reduction

# --- upstream

BAD_UPSTREAM = {name: case for name, case in NO_ARRAYS.items() if name != "None"}


@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize("case", BAD_UPSTREAM)
def test_upstream_of_a_wrong_kind(fn: Callable, case: str) -> None:
    """It must be an array of numbers as the other arguments must."""
    value, error, message = BAD_UPSTREAM[case]
    wrt = FIRST_WRT[fn]
    out = np.full_like(RIGHT[fn][wrt], 7)
    with pytest.raises(error, match=f"(?s){message.format('upstream')}"):
        xent.value_and_grad(fn, wrt)(**RIGHT[fn], upstream=value, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("fn", "reduction", "shape"),
    [
        (V1, None, (2,)),
        (V2, None, (2,)),
        (SPARSE, None, (2,)),
        *((SOFTMAX_LOSS, r, (2,) if r == "none" else ()) for r in Reduction.all()[:5]),
        *((SPARSE_LOSS, r, (2,) if r == "none" else ()) for r in Reduction.all()[:5]),
        *((WEIGHTED, r, (3,) if r == "none" else ()) for r in Reduction.all()[:5]),
    ],
)
def test_upstream_of_a_wrong_shape(fn: Callable, reduction: str, shape: tuple[int, ...]) -> None:
    """Its shape is that of the value, and does not broadcast."""
    wrt = FIRST_WRT[fn]
    kwargs = RIGHT[fn] | ({} if reduction is None else {"reduction": reduction})
    both = xent.value_and_grad(fn, wrt)
    both(**kwargs, upstream=np.ones(shape, np.float32))
    out = np.full_like(RIGHT[fn][wrt], 7)
    for wrong in [(), (1,), (2,), (3,), (2, 1), (1, 2), (2, 3)]:
        if wrong == shape:
            continue
        with pytest.raises(ValueError, match="upstream must have the shape of the value") as info:
            both(**kwargs, upstream=np.ones(wrong, np.float32), out=out)
        assert str(shape) in str(info.value)
        assert str(wrong) in str(info.value)
    assert (out == 7).all()


# --- out


def _read_only() -> np.ndarray:
    array = np.zeros((2, 3), np.float32)
    array.flags.writeable = False
    return array


def _overlapping() -> np.ndarray:
    return np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (2, 3), (4, 4))


BAD_OUT: dict[str, tuple[Any, type[Exception], str]] = {
    "shape": (zeros(3, 2), ValueError, r"out must have shape \(2, 3\), got \(3, 2\)"),
    "rank": (zeros(6), ValueError, r"out must have shape \(2, 3\), got \(6,\)"),
    "broadcast": (zeros(1, 3), ValueError, r"out must have shape \(2, 3\), got \(1, 3\)"),
    "dtype": (np.zeros((2, 3)), TypeError, "out must have dtype float32, got float64"),
    "half": (np.zeros((2, 3), np.float16), TypeError, "out must have dtype float32, got float16"),
    "int": (np.zeros((2, 3), int), TypeError, "out must have dtype float32, got int64"),
    "list": ([[0.0] * 3] * 2, TypeError, "out must be a NumPy array, got list"),
    "tuple": ((zeros(2, 3),), TypeError, "out must be a NumPy array, got tuple"),
    "scalar": (np.float32(0), TypeError, "out must be a NumPy array, got float32"),
    "masked": (np.ma.zeros((2, 3), np.float32), TypeError, "must be a NumPy array, got MaskedArr"),
    "CUDA": (Cuda(), TypeError, "out must be a NumPy array, got Cuda"),
    "read-only": (_read_only(), ValueError, "out must be writeable, got a read-only array"),
    "overlapping": (_overlapping(), ValueError, "out must not have elements that share memory"),
}


@pytest.mark.parametrize("fn", [V1, V2, SPARSE, SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED])
@pytest.mark.parametrize("case", BAD_OUT)
def test_wrong_out(fn: Callable, case: str) -> None:
    """For every function alike, alone and in a tuple; nothing is written or collected."""
    out, error, message = BAD_OUT[case]
    kwargs, wrt = ({"losses": LOGITS}, "losses") if fn is WEIGHTED else (RIGHT[fn], "logits")
    before = np.asarray(out).tobytes() if isinstance(out, np.ndarray) else None
    with xent.losses.collecting():
        with pytest.raises(error, match=message):
            xent.value_and_grad(fn, wrt)(**kwargs, out=out)
        other = "labels" if fn is V2 else "weights"
        if fn in (V2, SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED):
            with pytest.raises(error, match=message.replace("out must", r"out\[1\] must")):
                xent.value_and_grad(fn, (other, wrt))(**kwargs, out=(None, out))
        assert xent.losses.get_losses() == []
    assert before is None or np.asarray(out).tobytes() == before


def test_wrong_tuples_of_outs() -> None:
    """A tuple of names wants a tuple of arrays, or None, that do not share memory."""
    both = xent.value_and_grad(SOFTMAX_LOSS, ("logits", "weights"))
    weights = np.ones(2, np.float32)
    memory = np.full(6, 7, np.float32)
    for out, error, message in [
        (memory.reshape(2, 3), TypeError, "out must be a tuple of 2, got ndarray"),
        ([None, None], TypeError, "out must be a tuple of 2, got list"),
        ((), ValueError, "out must be a tuple of 2, got 0"),
        ((None,), ValueError, "out must be a tuple of 2, got 1"),
        ((None,) * 3, ValueError, "out must be a tuple of 2, got 3"),
        ((None, zeros(3)), ValueError, r"out\[1\] must have shape \(2,\), got \(3,\)"),
        ((memory.reshape(2, 3), memory[1:3]), ValueError, "out: .*must not share memory"),
    ]:
        with pytest.raises(error, match=message):
            both(ONE_HOT, LOGITS, weights, out=out)
    assert (memory == 7).all()
    both(ONE_HOT, LOGITS, weights, out=(memory.reshape(2, 3), np.empty(2, np.float32)))
    assert (memory != 7).all()


@pytest.mark.parametrize(
    ("fn", "name", "value"),
    [
        (V2, "labels", np.array([[0, 0, 1], [0, 1, 0]])),
        (SOFTMAX_LOSS, "weights", np.array([1, 0])),
        (SPARSE_LOSS, "weights", np.array([True, False])),
        (WEIGHTED, "weights", np.array([1, 0, 3])),
        (WEIGHTED, "losses", np.array([1, 0, 3])),
    ],
)
def test_out_without_a_gradient(fn: Callable, name: str, value: np.ndarray) -> None:
    """Integers have no gradient that could be put anywhere."""
    for dtype in (value.dtype, np.float32):
        out = np.full(value.shape, 7).astype(dtype)
        before = out.tobytes()
        with pytest.raises(ValueError, match=f"out must be None: .* no gradient by integer {name}"):
            xent.value_and_grad(fn, name)(**RIGHT[fn] | {name: value}, out=out)
        assert out.tobytes() == before


# --- value_and_grad itself


class Unhashable:
    """A callable that no dictionary can be asked for."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    "fn",
    [
        None,
        "softmax_cross_entropy",
        LOGITS,
        len,
        lambda labels, logits: 0,
        Unhashable(),
        [V1],
        {},
        Reduction,
        xent.losses.add_loss,
        xent.value_and_grad,
        xent.value_and_grad(V1),
        functools.partial(V2, axis=0),
    ],
    ids=lambda fn: f"{fn!r:.20}",
)
def test_fn_that_is_not_ours(fn: Any) -> None:
    """The message lists the functions that are, and says what came."""
    with pytest.raises(TypeError, match="fn must be one of") as info:
        xent.value_and_grad(fn)
    message = str(info.value)
    assert repr(fn)[:20] in message
    assert all(f"{known.__module__}.{known.__name__}" in message for known in FUNCTIONS)


WRT = {
    V1: {"logits"},
    V2: {"logits", "labels"},
    SPARSE: {"logits"},
    SOFTMAX_LOSS: {"logits", "weights"},
    SPARSE_LOSS: {"logits", "weights"},
    WEIGHTED: {"losses", "weights"},
}


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_unknown_wrt(fn: Callable) -> None:
    """Only the arguments that have a gradient may be named; the message lists them."""
    others = {"logits", "labels", "onehot_labels", "weights", "losses", "name", "", "LOGITS"}
    for name in WRT[fn]:
        xent.value_and_grad(fn, name)
    for name in others - WRT[fn]:
        for wrt in (name, (name,), (*WRT[fn], name)):
            with pytest.raises(ValueError, match=f"(?s)wrt.*'{name}'") as info:
                xent.value_and_grad(fn, wrt)
            assert fn.__name__ in str(info.value)
            if "label" not in name:
                assert all(repr(known) in str(info.value) for known in WRT[fn])


@pytest.mark.parametrize(
    ("fn", "name"),
    [(V1, "labels"), (SPARSE, "labels"), (SOFTMAX_LOSS, "onehot_labels"), (SPARSE_LOSS, "labels")],
)
def test_wrt_labels(fn: Callable, name: str) -> None:
    """No gradient flows there, and the message names the function where one does."""
    message = r"wrt: .*(no gradient).* numba_xent\.nn\.softmax_cross_entropy_with_logits_v2"
    with pytest.raises(ValueError, match=message):
        xent.value_and_grad(fn, name)


@pytest.mark.parametrize(
    ("wrt", "error", "message"),
    [
        ((), ValueError, r"wrt must name each argument once, and at least one, got \(\)"),
        (("logits", "logits"), ValueError, "wrt must name each argument once"),
        (("logits", "labels", "logits"), ValueError, "wrt must name each argument once"),
        (None, TypeError, "wrt must be an argument name or a tuple of them, got None"),
        (0, TypeError, "wrt must be an argument name or a tuple of them, got 0"),
        (b"logits", TypeError, "wrt must be an argument name or a tuple"),
        (["logits"], TypeError, r"wrt must be an argument name or a tuple of them, got \['logits"),
        ({"logits"}, TypeError, "wrt must be an argument name or a tuple"),
        (("logits", 1), TypeError, "wrt must be an argument name or a tuple"),
        (("logits", ["labels"]), TypeError, "wrt must be an argument name or a tuple"),
        ((("logits",),), TypeError, "wrt must be an argument name or a tuple"),
    ],
)
def test_wrong_wrt(wrt: Any, error: type[Exception], message: str) -> None:
    """It is a name or a tuple of different names."""
    with pytest.raises(error, match=message):
        xent.value_and_grad(V2, wrt)
