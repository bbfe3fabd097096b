"""From the words of the registry to a function without arguments."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import arrays
from .registry import SOFTMAX_LOSS, SPARSE, SPARSE_LOSS, V1, V2, WEIGHTED_LOSS

Call = Callable[[], Any]


def make_call(words: Mapping[str, str]) -> Call:
    """Make the call that some words describe.

    Parameters
    ----------
    words : mapping
        One for each axis of `registry.DEFAULTS`.

    Returns
    -------
    callable
        It computes, and returns what the function returns.

    Raises
    ------
    NotImplementedError
        If the installed revision has no such function; asv takes that for a benchmark to skip.
    """
    return _make(tuple(sorted(words.items())))


@functools.lru_cache(maxsize=1)  # asv sets up a benchmark again before each sample
def _make(items: tuple[tuple[str, str], ...]) -> Call:
    words = dict(items)
    arguments = _arguments(words)
    function = find(words["function"])
    if words["of"] == "value":
        return functools.partial(function, **arguments)
    wrt = {"both gradients": ("logits", "labels")}.get(words["of"], _source_of(words["function"]))
    both = find("value_and_grad")(function, wrt=wrt)
    if words["of"] != "gradient":
        return functools.partial(both, **arguments)
    like = arguments[_source_of(words["function"])]
    out = arrays.written(like.shape, words["dtype"])
    return functools.partial(both, **arguments, out=out)


def find(name: str) -> Any:
    """Something public, by its name below ``numba_xent``."""
    found = importlib.import_module("numba_xent")
    for part in name.split("."):
        if not hasattr(found, part):
            raise NotImplementedError(f"this revision has no {name}")
        found = getattr(found, part)
    return found


def _source_of(function: str) -> str:
    """The argument by which we differentiate."""
    return "losses" if function == WEIGHTED_LOSS else "logits"


def _arguments(words: dict[str, str]) -> dict[str, Any]:
    shape, dtype, function = arrays.Shape.parse(words["logits"]), words["dtype"], words["function"]
    logits = arrays.logits(shape, dtype)
    arguments: dict[str, Any]
    match function:
        case str(name) if name in (V1, V2):
            labels = arrays.dense_labels(shape, dtype, words["labels"])
            # The first version always refused `axis` in some revisions; `dim` says the same.
            axis = "dim" if name == V1 else "axis"
            arguments = {"labels": labels, "logits": logits, axis: shape.axis}
        case str(name) if name == SOFTMAX_LOSS:
            labels = arrays.dense_labels(shape, dtype, words["labels"])
            arguments = {"onehot_labels": labels, "logits": logits}
        case str(name) if name in (SPARSE, SPARSE_LOSS):
            labels = arrays.class_numbers(shape, words["labels"])
            arguments = {"labels": labels, "logits": np.moveaxis(logits, shape.axis, -1)}
        case _:
            arguments = {"losses": logits}
    if function.startswith("losses."):
        weighted = shape.sizes if function == WEIGHTED_LOSS else shape.batch
        arguments |= _options(words, weighted)
    return arguments


def _options(words: dict[str, str], weighted: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if words["reduction"] != "default":
        found["reduction"] = getattr(find("losses.Reduction"), words["reduction"])
    if "weights" in words["options"]:
        found["weights"] = arrays.weights(weighted, words["dtype"])
    if "smoothing" in words["options"]:
        found["label_smoothing"] = 0.1
    return found
