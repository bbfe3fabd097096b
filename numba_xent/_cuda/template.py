"""Kernels are templates: plain functions whose names get a meaning for each specialisation.

A kernel calls the formulas of ``_math`` and the functions of its own module by their names, and
reads memory and sizes through names that its module only declares. :func:`specialise` copies the
functions of a module with all those names bound: to instructions, to constants, and to copies of
the formulas for the compute dtype. In float32, ``exp`` is the GPU's own power of two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from .._math import compensated, cross_entropy, exponential
from .._math.constants import FLOAT32, FLOAT64
from . import device, logarithm
from .device import inlined

_PRIMITIVES = {
    name: getattr(device, name)
    for name in ("fma", "where", "maximum", "bits", "from_bits", "to_float", "widen")
}
_LOG2_E = np.float32(1.4426950408889634)
_CUTOFF = np.float32(-200)  # far below it, infinity among it, powers are 0


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    """The functions that a module defines itself."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__
    }


def _copy(function: FunctionType, scope: dict[str, Any]) -> FunctionType:
    return FunctionType(function.__code__, scope, function.__name__, function.__defaults__)


def specialise(module: ModuleType, bindings: Mapping[str, Any]) -> dict[str, Any]:
    """The functions of a module, with its names bound.

    Parameters
    ----------
    module
        Its functions call one another and what is bound.
    bindings
        What names of the module mean.

    Returns
    -------
    dict
        The functions by their names, to be called from kernels.
    """
    scope = {**vars(module), **bindings}
    own = {name: inlined(_copy(function, scope)) for name, function in _functions(module).items()}
    own.update((name, bindings[name]) for name in own if name in bindings)
    scope.update(own)
    return own


def entry(module: ModuleType, name: str, bindings: Mapping[str, Any]) -> Callable[..., Any]:
    """A kernel of a module, ready to be compiled."""
    functions = {k: v for k, v in specialise(module, bindings).items() if k != name}
    return _copy(_functions(module)[name], {**vars(module), **bindings, **functions})


def _exp_float32(d: Any) -> Any:
    d = device.larger(d, _CUTOFF)
    t = d * _LOG2_E
    e = device.exp2(t)
    # What the rounding of the exponent has cost.
    return device.fma(e, device.fma(t, FLOAT32.minus_ln2, d), e)


@functools.cache
def formulas(compute: str) -> Mapping[str, Any]:
    """The functions of ``_math`` for numbers of the compute dtype, by their names.

    ``finish`` computes in float64 in either case, but in float32 its logarithm is that of
    :mod:`.logarithm`, and ``exp_scaled`` does not scale: ``EXP_SCALE`` is what undoes the scaling.
    """
    values = FLOAT32 if compute == "float32" else FLOAT64
    names: dict[str, Any] = {**_PRIMITIVES, "constants": inlined(lambda x: values)}
    names["EXP_SCALE"] = FLOAT64.scale_down
    if compute == "float32":
        names["exp"] = names["exp_scaled"] = inlined(_exp_float32)
        names["EXP_SCALE"] = np.float32(1)
        names.update(specialise(compensated, names))
        names.update(specialise(logarithm, names))
    for module in (compensated, exponential, cross_entropy):
        names.update(specialise(module, names))
    return names
