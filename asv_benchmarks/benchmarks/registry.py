"""What is measured: functions, and the axes along which their calls vary.

A call is described by words, one for each axis; an entry fixes some of them, varies others, and
leaves the rest as `DEFAULTS` has them. The gate takes all combinations of an entry, or those with
the words that `gated` lists; ``gated=None`` keeps it away.

Of arrays, ``logits`` gives the shape, the class axis in brackets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

Words = Mapping[str, tuple[str, ...]]
EVERYTHING: Words = {}

V1 = "nn.softmax_cross_entropy_with_logits"
V2 = "nn.softmax_cross_entropy_with_logits_v2"
SPARSE = "nn.sparse_softmax_cross_entropy_with_logits"
SOFTMAX_LOSS = "losses.softmax_cross_entropy"
SPARSE_LOSS = "losses.sparse_softmax_cross_entropy"
WEIGHTED_LOSS = "losses.compute_weighted_loss"
FUNCTIONS = (V1, V2, SPARSE, SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED_LOSS)

ROWS, FEW, LONG = "2048 x [1000]", "131072 x [10]", "64 x [32000]"
FIRST, MIDDLE, SHORT_RUNS = "[1000] x 2048", "8 x [21] x 96 x 96", "1024 x [50] x 31"
SMALL = "32 x [10]"

DEFAULTS = {
    "function": V2,
    "of": "value",
    "dtype": "float32",
    "logits": ROWS,
    "labels": "default",  # floats, or class numbers in int64
    "reduction": "default",
    "options": "none",
}
OF = ("value", "gradient")
"""Of what: the value, or the value and the gradient, written to an array that is there already."""

DTYPES = ("float16", "bfloat16", "float32", "float64")
REDUCTIONS = ("NONE", "SUM", "MEAN", "SUM_OVER_BATCH_SIZE", "SUM_BY_NONZERO_WEIGHTS")


class Entry(NamedTuple):
    """Calls that belong together: a class of asv.

    Attributes
    ----------
    name
        Of the class.
    summary
        What it is about.
    fixed
        The words that all of its calls have.
    axes
        For each word that varies, what it may be. A benchmark is measured for all combinations.
    gated
        For some of `axes`, the words that the gate takes; None if it takes nothing.
    """

    name: str
    summary: str
    fixed: Mapping[str, str]
    axes: Words
    gated: Words | None = EVERYTHING

    def call(self, *words: str) -> dict[str, str]:
        """Describe one call in full, from the words along `axes`."""
        return {**DEFAULTS, **self.fixed, **dict(zip(self.axes, words, strict=True))}

    def in_gate(self, *words: str) -> bool:
        """Whether the gate takes the call with these words along `axes`."""
        if self.gated is None:
            return False
        given = zip(self.axes, words, strict=True)
        return all(word in self.gated.get(axis, (word,)) for axis, word in given)

    def combinations(self) -> Iterator[tuple[str, ...]]:
        """All the words that there are along `axes`."""
        return itertools.product(*self.axes.values())


STEADY = (
    Entry(
        "SoftmaxCrossEntropyWithLogits",
        "The first version of the function; it shares its kernels with the second.",
        {"function": V1},
        {"of": OF, "logits": (ROWS, MIDDLE)},
        gated=None,
    ),
    Entry(
        "SoftmaxCrossEntropyWithLogitsV2",
        "Dtypes, shapes and class axes, with a label per class.",
        {"function": V2},
        {
            "of": (*OF, "new gradient", "both gradients"),
            "dtype": DTYPES,
            "logits": (ROWS, FEW, LONG, FIRST, MIDDLE, SHORT_RUNS),
        },
        gated={"of": OF, "dtype": ("float32",), "logits": (ROWS, FEW, MIDDLE)},
    ),
    Entry(
        "LabelsPerClass",
        "Kinds of labels: floats, one for all examples, and small integers.",
        {"function": V2},
        {"of": OF, "labels": ("default", "broadcast", "int8")},
        gated=None,
    ),
    Entry(
        "SparseSoftmaxCrossEntropyWithLogits",
        "Dtypes, shapes and class numbers.",
        {"function": SPARSE},
        {
            "of": OF,
            "dtype": DTYPES,
            "logits": (ROWS, FEW, LONG, FIRST, SHORT_RUNS),
            "labels": ("int32", "int64"),
        },
        gated={"dtype": ("float32",), "logits": (ROWS, FEW), "labels": ("int64",)},
    ),
    Entry(
        "LossesSoftmaxCrossEntropy",
        "Reductions, weights and label smoothing.",
        {"function": SOFTMAX_LOSS},
        {
            "of": OF,
            "dtype": ("float32", "float64"),
            "reduction": REDUCTIONS,
            "options": ("none", "weights", "smoothing", "weights and smoothing"),
        },
        gated={
            "dtype": ("float32",),
            "reduction": ("SUM_BY_NONZERO_WEIGHTS",),
            "options": ("weights and smoothing",),
        },
    ),
    Entry(
        "LossesSparseSoftmaxCrossEntropy",
        "Reductions and weights of losses by class number.",
        {"function": SPARSE_LOSS},
        {
            "of": OF,
            "dtype": ("float32", "float64"),
            "reduction": REDUCTIONS,
            "options": ("none", "weights"),
        },
        gated={
            "dtype": ("float32",),
            "reduction": ("SUM_BY_NONZERO_WEIGHTS",),
            "options": ("weights",),
        },
    ),
    Entry(
        "ComputeWeightedLoss",
        "Reductions of losses that are there already: what stands for logits are the losses.",
        {"function": WEIGHTED_LOSS, "logits": "1024 x [1024]"},
        {"of": OF, "dtype": DTYPES, "reduction": REDUCTIONS, "options": ("none", "weights")},
        gated={
            "dtype": ("float32",),
            "reduction": ("SUM_BY_NONZERO_WEIGHTS",),
            "options": ("weights",),
        },
    ),
)
"""Calls whose time is that of their kernels."""

LATENCY = Entry(
    "Latency",
    "Calls so small that all of their time is spent on the way to the kernel.",
    {"logits": SMALL},
    {"function": FUNCTIONS, "of": OF},
    gated={"function": (V2, SPARSE)},
)

MEMORY = Entry(
    "Memory",
    "What a warm call holds beyond its operands.",
    {},
    {"function": FUNCTIONS, "of": (*OF, "new gradient")},
)

LAYOUTS = Entry(
    "Layouts",
    "The same for other shapes and labels, where an operand might be copied.",
    {"function": V2},
    {
        "of": OF,
        "dtype": ("float32", "bfloat16"),
        "logits": (ROWS, FIRST, MIDDLE),
        "labels": ("default", "broadcast", "int8"),
    },
)

ACCURACY = Entry(
    "Accuracy",
    "Errors of the losses of rows that are hard to get right.",
    {},
    {"function": (V2, SPARSE), "dtype": DTYPES},
)

PROBE = Entry(
    "Probe",
    "Time against that of moving the same bytes.",
    {"logits": "8192 x [1000]"},
    {"function": (V2, SPARSE), "of": OF, "dtype": ("float32", "float64")},
    gated=None,  # a time: the gate compares those between revisions
)

KERNELS = Entry(
    "Kernels",
    "What the CUDA kernels move and execute, found without a GPU.",
    {"of": "gradient"},
    {
        "function": (SPARSE, V2),
        "dtype": ("float32", "bfloat16"),
        "logits": ("8 x [1000]", "2 x [50257]", "1 x [40] x 256"),
    },
    gated={"dtype": ("float32",), "logits": ("8 x [1000]", "1 x [40] x 256")},
)
