"""Which kernels there are, and the PTX of each: Numba compiles, without a driver or a GPU."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from . import columns, elementwise, examples, rows, spans, split, states, tiles, totals
from .cache import kept
from .device import reciprocal, storage
from .task import TASK, type_of
from .template import entry, formulas, specialise

WARP = 32
_RESIDENT = 512  # threads that a multiprocessor has room for, at least, with 128 registers each
compiled: dict[str, str] = {}
"""The PTX of all kernels so far, by their names."""

_ENTRY = re.compile(r"\.visible \.entry (\w+)\(")


class Choice(NamedTuple):
    """What makes one kernel different from another.

    Attributes
    ----------
    family
        ``rows``, ``online``, ``split`` and then ``finish_split``, or ``columns``.
    dtype
        Of the logits.
    labels
        The dtype of labels, one for each class; ``sparse`` for class indices.
    gradient
        Whether there is a gradient by the logits.
    label_gradient
        Whether there is one by the labels.
    width
        How many threads share an example: those of a cluster of blocks if more than a block has.
    threads
        How many threads a block has.
    elements
        How many logits a thread holds.
    vectors
        Whether memory is read and written 16 bytes at a time; else number by number.
    smooth
        Whether labels are smoothed.
    once
        Whether columns are held, so that logits are read once; rows always are.
    """

    family: str
    dtype: str
    labels: str
    gradient: bool
    label_gradient: bool
    width: int
    threads: int
    elements: int
    vectors: bool = False
    smooth: bool = False
    once: bool = True

    @property
    def cluster(self) -> int:
        """How many blocks share an example."""
        return max(1, self.width // self.threads)

    @property
    def wide(self) -> bool:
        """Whether a thread may have more than 128 registers: eight examples with many sums each."""
        return self.family == "columns" and not self.once and self.threads < _RESIDENT

    @property
    def name(self) -> str:
        """A name that no other kernel has."""
        what = "labels" if self.label_gradient else "gradient" if self.gradient else "value"
        return (
            f"{self.family}_{self.dtype}_{self.labels}_{what}_"
            f"{self.width}_{self.threads}_{self.elements}"
            f"{'_vectors' if self.vectors else ''}{'_smooth' if self.smooth else ''}"
            f"{'' if self.once else '_twice'}"
        )


def _tile(name: str, number: str, choice: Choice, void: Any) -> dict[str, Any]:
    memory = storage(name, number)
    lanes = memory.lanes if choice.vectors else 1
    return specialise(
        tiles,
        {
            **memory._asdict(),
            "VECTORS": choice.elements // lanes,
            "WORDS": choice.elements // lanes * 4,
            "LANES": lanes,
            "WIDTH": choice.width,
            "MASKED": bool(void < 0),
            "VOID": void,
        },
    )


def bindings(choice: Choice) -> dict[str, Any]:
    """What the names of the kernels' templates mean for a choice."""
    number = "float64" if choice.dtype == "float64" else "float32"
    kind = getattr(np, number)
    logits = storage(choice.dtype, number)
    dense = choice.labels != "sparse"
    minus_infinity = kind(-np.inf)
    lanes = logits.lanes if choice.vectors else 1
    warps = choice.threads // WARP
    if choice.family == "columns":
        steps = {16, 8}
        places = warps * lanes * columns.COLUMNS
    else:
        steps = {1 << i for i in range(min(choice.width, WARP).bit_length() - 1)}
        places = warps
    fields = states.SPARSE_FIELDS
    if dense:
        fields = states.SMOOTH_FIELDS if choice.smooth else states.DENSE_FIELDS
    own = max(1, lanes // columns.TURNS)
    names: dict[str, Any] = {
        **formulas(number),
        "reciprocal": reciprocal,
        "DENSE": dense,
        "SMOOTH": choice.smooth,
        "GRADIENT": choice.gradient,
        "LABEL_GRADIENT": choice.label_gradient,
        "WIDTH": choice.width,
        "GROUPS": max(1, choice.threads // choice.width),
        "CLUSTER": choice.cluster,
        "ONCE": choice.once,
        "WARPS": warps,
        **{f"STEP_{step}": step in steps for step in (16, 8, 4, 2, 1)},
        "HELD": choice.elements,
        "SLOTS": choice.elements + (lanes > 1),
        "VECTORS": choice.elements // lanes,
        "THREADS": choice.threads,
        "PLACES": places,
        "FIELDS": fields,
        "SHARED": fields * places,
        "SUMS": fields * lanes,
        "OWN": own,
        "OWNERS": lanes // own,
        "PARTS": max(1, choice.width // columns.TURNS),
        "LANES": lanes,
        "SIZE": logits.size,
        "RAW_SIZE": storage(number, number).size,
        "NUMBER": kind,
        "ZERO": kind(0),
        "ONE": kind(1),
        "NAN": kind(np.nan),
        "MASKED": minus_infinity,
        "LOWEST": np.finfo(kind).min,
        "load_logit": logits.load,
        "store_logit": logits.store,
        "load_number": storage(number, number).load,
        "store_number": storage(number, number).store,
        "load_scale": storage("float64", "float64").load,
        "load_index": storage("int32", "int64").load,
        "load_wide_index": storage("int64", "int64").load,
        "store_loss": storage(choice.dtype, "float64").store,
        "store_raw_loss": storage(number, "float64").store,
    }
    tile = _tile(choice.dtype, number, choice, minus_infinity)
    names["read_logits"], names["write_d_logits"] = tile["read"], tile["write"]
    name = choice.labels if dense else choice.dtype
    labels = storage(name, number)
    tile = _tile(name, number, choice, kind(0))
    names["read_labels"], names["write_d_labels"] = tile["read"], tile["write"]
    names["load_label"], names["store_label"] = labels.load, labels.store
    for module in (states, examples, spans):
        names.update(specialise(module, names))
    return names


_MODULES = {
    "rows": rows, "online": split, "split": split, "finish_split": split, "columns": columns,
}  # fmt: skip


_SUM = type_of(totals.Sum, ("weights",), ("divisor", "weight"))


def _bindings_of_sums(dtype: str) -> dict[str, Any]:
    number = "float64" if dtype == "float64" else "float32"
    wide = storage("float64", "float64")
    names = {
        "load_number": storage(number, "float64").load,
        "load_wide": wide.load,
        "store_wide": wide.store,
        "store_value": storage(dtype, "float64").store,
        "NUMBER_SIZE": storage(number, number).size,
    }
    placing = specialise(examples, names)
    return names | {name: placing[name] for name in ("place_of", "start_of")}


@functools.cache
def sum_ptx(name: str, dtype: str, capability: tuple[int, int]) -> str:
    """The PTX of ``partial_sums`` or ``total_sum`` for logits of a dtype."""
    return _compile(
        lambda: entry(totals, name, _bindings_of_sums(dtype)),
        _SUM,
        sum_name(name, dtype),
        capability,
        totals.THREADS,
    )


def sum_name(name: str, dtype: str) -> str:
    """The name of such a kernel for logits of a dtype."""
    return f"{name}_{dtype}"


def _compile(
    make: Callable[[], Any], task: Any, name: str, capability: tuple[int, int], threads: int,
    resident: int = _RESIDENT,
) -> str:  # fmt: skip
    def compile_it() -> bytes:
        kernel = make()
        kernel.__name__ = kernel.__qualname__ = name
        text, _ = cuda.compile(
            kernel, (task,), device=False, abi="numba", cc=capability,
            # They share 65536 registers.
            launch_bounds=(threads, max(1, resident // threads)),
        )  # fmt: skip
        mangled = _ENTRY.search(text)
        assert mangled is not None
        return bytes(text.replace(mangled[1], name), "ascii")

    major, minor = capability
    text = compiled[name] = kept(f"{name}_sm_{major}{minor}.ptx", compile_it).decode("ascii")
    return text


@functools.cache
def ptx(choice: Choice, capability: tuple[int, int]) -> str:
    """The PTX of a kernel for a compute capability."""
    return _compile(
        lambda: entry(_MODULES[choice.family], choice.family, bindings(choice)),
        TASK,
        choice.name,
        capability,
        choice.threads,
        min(_RESIDENT, choice.threads) if choice.wide else _RESIDENT,
    )


_PRODUCT = type_of(elementwise.Product, ("a", "b", "c", "out"), ("scale",), elementwise.Operand)
_FOLD = type_of(elementwise.Fold, (), ())


@functools.cache
def elementwise_ptx(name: str, capability: tuple[int, int]) -> str:
    """The PTX of ``product`` or ``fold``, which are for all dtypes."""
    names = {
        f"{what}_{dtype}": getattr(storage(dtype, "float64"), what)
        for dtype in elementwise.CODES
        for what in ("load", "store")
    }
    return _compile(
        lambda: entry(elementwise, name, names),
        _PRODUCT if name == "product" else _FOLD,
        name,
        capability,
        elementwise.THREADS,
    )
