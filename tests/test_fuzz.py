"""Random calls, and what they have found."""

from collections.abc import Callable
from typing import Any

import fuzzing
import hostile
import numpy as np
import pytest
from calls import FUNCTIONS, LOGITS, ONE_HOT, RIGHT, SOFTMAX_LOSS, SPARSE, SPARSE_LOSS, V2, WEIGHTED
from hostile import EndlessList, EqualToAll, Raises, RaisesAttribute, UnspeakableError, liar

import numba_xent as xent

ARRAYS = [(fn, name) for fn in FUNCTIONS for name in RIGHT[fn]]
ERRORS = [RuntimeError("no"), AttributeError("no"), KeyError("no"), UnspeakableError()]


def test_random_calls() -> None:
    """A few calls of every kind; `.ci/run` makes many more."""
    ends, findings = fuzzing.fuzz(seed=0, first=0, count=2000)
    assert findings == []
    assert ends["returned"] > 1000
    assert ends["ValueError"] > 200
    assert ends["TypeError"] > 200


def test_the_fuzzer_sees_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is off by a few units in the last place is found."""
    right = fuzzing.oracle.FUNCTIONS["nn.softmax_cross_entropy_with_logits_v2"]

    def wrong(*args: Any, **kwargs: Any) -> Any:
        answer = right(*args, **kwargs)
        answer.value = answer.value * (1 + 1e-4)
        return answer

    monkeypatch.setitem(fuzzing.oracle.FUNCTIONS, "nn.softmax_cross_entropy_with_logits_v2", wrong)
    ends, findings = fuzzing.fuzz(seed=0, first=0, count=300)
    assert ends["wrong"] > 0
    assert all("value: " in finding for finding in findings)


# --- what was found


def test_zero_classes_and_broadcast_labels() -> None:
    """One example of no classes, whose labels are broadcast to none: 0, not whatever was there."""
    for shape in ((0,), (0, 1), (1, 0)):
        logits = np.zeros(shape, np.float64)
        labels = np.ones([n or 1 for n in shape], np.float32)
        axis = shape.index(0)
        for _ in range(20):
            np.full(1, 77.0)  # what a forgotten loss would be
            value, gradient = xent.value_and_grad(V2, "labels")(labels, logits, axis=axis)
            assert (value == 0).all()
            assert gradient.tolist() == np.zeros_like(labels).tolist()


@pytest.mark.parametrize("fn", [SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED])
def test_enormous_weights_of_a_wrong_shape(fn: Callable) -> None:
    """They are refused for their shape; they used to be converted first."""
    weights = np.broadcast_to(np.float16(1), (2**40, 3))
    with pytest.raises(ValueError, match="weights"):
        fn(**{**RIGHT[fn], "weights": weights})


@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize("claimed", [(2, 3), (3,)])
def test_out_that_lies_about_its_shape(fn: Callable, claimed: tuple[int, ...]) -> None:
    """The gradient would be written far beyond what belongs to it."""
    out = liar(np.full(1, 7, np.float32), claimed)
    wrt = "losses" if fn is WEIGHTED else "logits"
    with pytest.raises(ValueError, match=r"out must have shape .*got \(1,\)"):
        xent.value_and_grad(fn, wrt)(**RIGHT[fn], out=out)
    assert np.asarray(out).tolist() == [7]


def test_out_of_a_subclass() -> None:
    """It is filled, whatever its own methods do, and it is what is returned."""

    class Strange(np.ndarray):
        def __setitem__(self, key: Any, value: Any) -> None:
            raise RuntimeError("no")

    out = np.zeros((2, 3), np.float32).view(Strange)
    _, gradient = xent.value_and_grad(V2)(ONE_HOT, LOGITS, out=out)
    assert gradient is out
    want = xent.value_and_grad(V2)(ONE_HOT, LOGITS)[1]
    assert np.asarray(out).tobytes() == want.tobytes()


@pytest.mark.parametrize(("fn", "name"), ARRAYS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_objects_that_raise(fn: Callable, name: str, error: Exception) -> None:
    """Whatever a method or attribute raises, it is a TypeError that names the argument."""
    for value in (
        Raises(error),
        RaisesAttribute(error),
        [Raises(error)],
        [[1.0, 2.0, 3.0], Raises(error)],
        hostile.NoArray(Raises(error)),
    ):
        with pytest.raises((TypeError, ValueError), match=name):
            fn(**{**RIGHT[fn], name: value})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (V2, "axis"),
        (V2, "dim"),
        (SOFTMAX_LOSS, "label_smoothing"),
        (SOFTMAX_LOSS, "reduction"),
        (SPARSE_LOSS, "scope"),
        (SPARSE_LOSS, "loss_collection"),
    ],
)
def test_options_that_raise(fn: Callable, name: str, error: Exception) -> None:
    """The same for what is no array."""
    values: list[Any] = [Raises(error)]
    if name != "loss_collection":
        values.append(RaisesAttribute(error))
    for value in values:
        with xent.losses.collecting(), pytest.raises((TypeError, ValueError), match=name):
            fn(**{**RIGHT[fn], name: value})


def test_functions_that_raise() -> None:
    """Also where no array is expected at all."""

    class Function:
        __hash__ = Raises(RuntimeError("no"))._raise
        __repr__ = Raises(RuntimeError("no"))._raise

        def __call__(self) -> None:
            """Do nothing."""

    with pytest.raises(TypeError, match="fn must be one of"):
        xent.value_and_grad(Function())
    with pytest.raises(TypeError, match="wrt must be"):
        xent.value_and_grad(V2, Raises(RuntimeError("no")))


def test_equal_to_everything() -> None:
    """An object that equals every key is taken for the first, by its key."""
    value = SOFTMAX_LOSS(ONE_HOT, LOGITS, reduction=EqualToAll())
    assert value.shape == (2,)


@pytest.mark.parametrize("value", [hostile.recursive(), hostile.deep()], ids=["own", "deep"])
def test_nested_without_end(value: Any) -> None:
    """A list that holds itself, and one of 5000 levels."""
    with pytest.raises(ValueError, match="labels"):
        V2(value, LOGITS)


def test_endless_iterator() -> None:
    """A list is what it holds, not what its iterator tells."""
    assert SPARSE(labels=EndlessList([2, 1]), logits=LOGITS).shape == (2,)


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v]], ids=["alone", "in a list"])
def test_a_lack_of_memory_is_no_type_error(wrap: Callable) -> None:
    """What a producer cannot allocate is not taken for what it cannot convert."""
    with pytest.raises(MemoryError):
        V2(wrap(Raises(MemoryError())), LOGITS)


def test_a_class_that_is_not_its_own() -> None:
    """An object that claims to be a masked array, or a list, is neither."""

    class Claims:
        __class__ = np.ma.MaskedArray  # type: ignore[assignment]

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
            return LOGITS

    assert V2(ONE_HOT, Claims()).shape == (2,)
