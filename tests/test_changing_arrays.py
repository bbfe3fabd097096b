"""Arrays whose shape, strides or dtype somebody changes while a call uses them.

Another thread can do that at any moment. Here it happens at the worst one: everything has been
checked, and nothing computed. The call goes on with what it was given.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from calls import FIRST_WRT, FUNCTIONS, RIGHT, WEIGHTED

import numba_xent as xent
from numba_xent import _problem, losses


def reshape(a: np.ndarray) -> None:
    """The same numbers in another shape."""
    a.shape = a.shape[::-1] if a.ndim > 1 else (a.size, 1)


def narrow(a: np.ndarray) -> None:
    """More numbers of one byte each."""
    a.dtype = np.dtype(np.uint8)


def reverse(a: np.ndarray) -> None:
    """Other elements of the same memory."""
    a.strides = (0,) * a.ndim


CHANGES = [reshape, narrow, reverse]


def changing(
    monkeypatch: pytest.MonkeyPatch, arrays: list[np.ndarray], change: Callable[[np.ndarray], None]
) -> list[int]:
    """Let arrays change before anything is computed; return where it is noted that they did."""
    changed: list[int] = []

    def change_all() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            for array in arrays:
                if not changed:
                    change(array)
        changed.append(len(arrays))

    backend, total = _problem.backend, losses._WeightedLoss._computed

    def changing_backend() -> Any:
        change_all()
        return backend()

    def changing_losses(self: Any) -> Any:
        change_all()
        return total(self)

    monkeypatch.setattr(_problem, "backend", changing_backend)
    monkeypatch.setattr(losses._WeightedLoss, "_computed", changing_losses)
    return changed


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("fn", FUNCTIONS)
def test_operands(
    monkeypatch: pytest.MonkeyPatch, fn: Callable, change: Callable[[np.ndarray], None]
) -> None:
    """Each operand in turn, and the upstream gradient."""
    both = xent.value_and_grad(fn, FIRST_WRT[fn])
    value, gradient = both(**RIGHT[fn])
    for name in (*RIGHT[fn], "upstream"):
        upstream = np.ones(np.shape(value), gradient.dtype)
        operands = {key: a.copy() for key, a in RIGHT[fn].items()} | {"upstream": upstream}
        with monkeypatch.context() as patch:
            changed = changing(patch, [operands[name]] if operands[name].ndim else [], change)
            got = both(**operands)
        assert changed
        assert got[0].tobytes() == value.tobytes(), name
        assert got[1].tobytes() == gradient.tobytes(), name


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize("swapped", [False, True])
def test_outputs(
    monkeypatch: pytest.MonkeyPatch,
    fn: Callable,
    change: Callable[[np.ndarray], None],
    swapped: bool,
) -> None:
    """The gradient is in the memory of `out`, as that lay when the call began."""
    both = xent.value_and_grad(fn, FIRST_WRT[fn])
    value, gradient = both(**RIGHT[fn])
    out = np.zeros(gradient.shape, gradient.dtype.newbyteorder("S" if swapped else "="))
    lay = out[...]
    changed = changing(monkeypatch, [out], change)
    got, returned = both(**RIGHT[fn], out=out)
    assert changed
    assert returned is out
    assert got == pytest.approx(value, rel=0, abs=0) if fn is WEIGHTED else (got == value).all()
    assert lay.tolist() == gradient.tolist()


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_memory_stays_where_it_is(monkeypatch: pytest.MonkeyPatch, fn: Callable) -> None:
    """``resize`` would move it; NumPy refuses as long as there is a view."""
    for name, given in RIGHT[fn].items():
        operands = {key: a.copy() for key, a in RIGHT[fn].items()}
        refused = []

        def resize(a: np.ndarray, refused: list[bool] = refused) -> None:
            with pytest.raises(ValueError, match="cannot resize"):
                a.resize((1000, 1000))
            refused.append(True)

        with monkeypatch.context() as patch:
            changing(patch, [operands[name]], resize)
            xent.value_and_grad(fn, FIRST_WRT[fn])(**operands)
        assert refused
        assert operands[name].tolist() == given.tolist()
