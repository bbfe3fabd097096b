"""Every recorded TensorFlow call, through the public functions.

Where numba_xent departs from TensorFlow on purpose, one of the RULES re-expects the cases
concerned. A rule says which cases it selects, how many they are and what is expected instead, and
is itself tested: each case that it selects must really differ from what TensorFlow answered.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle
import pytest
from golden_cases import Case, array, cases, document

import numba_xent as xent

LIBRARY = {
    "nn.v1.softmax": xent.nn.softmax_cross_entropy_with_logits,
    "nn.v2.softmax": xent.nn.softmax_cross_entropy_with_logits_v2,
    "nn.v1.sparse": xent.nn.sparse_softmax_cross_entropy_with_logits,
    "nn.v2.sparse": xent.nn.sparse_softmax_cross_entropy_with_logits,
    "losses.softmax": xent.losses.softmax_cross_entropy,
    "losses.sparse": xent.losses.sparse_softmax_cross_entropy,
    "losses.compute_weighted_loss": xent.losses.compute_weighted_loss,
    "losses.Reduction.validate": xent.losses.Reduction.validate,
}
ORACLE = {
    "nn.v1.softmax": oracle.dense,
    "nn.v2.softmax": oracle.dense,
    "nn.v1.sparse": oracle.sparse,
    "nn.v2.sparse": oracle.sparse,
    "losses.softmax": oracle.softmax_loss,
    "losses.sparse": oracle.sparse_loss,
    "losses.compute_weighted_loss": oracle.compute_weighted_loss,
}
LABELS = ("labels", "onehot_labels")
# One rounding of a half on either side of a boundary, or nearly all of float32's digits.
ORACLE_TOLERANCE = {
    "float16": {"rtol": 1e-3, "atol": 1e-7},
    "bfloat16": {"rtol": 8e-3, "atol": 1e-7},
    "float32": {"rtol": 1e-6, "atol": 2e-7},
    "float64": {"rtol": 1e-14, "atol": 1e-15},
}


@dataclass(frozen=True)
class Outcome:
    """What a case must do: raise, or return a value with a gradient for each name.

    A gradient is an array, None, or the class of the exception that asking for it raises.
    """

    error: type[Exception] | None = None
    says: tuple[str, ...] = ()
    loss: np.ndarray | None = None
    grads: dict[str, Any] = field(default_factory=dict)
    tol: dict[str, float] = field(default_factory=dict)


# --- what TensorFlow answered


def operands(case: Case) -> dict[str, Any]:
    """The arguments by name."""
    names = list(inspect.signature(LIBRARY[case.fn]).parameters)
    if case.fn == "nn.v2.sparse":  # the only function of ours without TensorFlow's v2 signature
        names = names[1:]
    return dict(zip(names, case.args, strict=False)) | case.kwargs


def shape(case: Case, name: str) -> tuple[int, ...]:
    """The shape of an argument."""
    return oracle.as_array(operands(case)[name]).shape


def recorded(case: Case, version: str = "2.21.0") -> Outcome:
    """TensorFlow's answer as an Outcome, before any rule."""
    tf = case.outcome(version)
    if "error" in tf:
        error = {"ValueError": ValueError, "TypeError": TypeError}[tf["error"]["suggest"]]
        return Outcome(error, blame(case, tf["error"]["message"]), tol=case.tol)
    grads = tf.get("grads", {})
    if grads:
        # Integer labels were not watched in TensorFlow; had they been, it would answer None.
        grads = grads | {name: None for name in case.wrt if name not in grads}
    return Outcome(loss=tf.get("loss"), grads=grads, tol=case.tol)


def missing(case: Case) -> list[str]:
    """The names of arguments that are None or left out although they are needed."""
    given = operands(case)
    needed = {
        "losses.softmax": ("onehot_labels", "logits", "weights"),
        "losses.sparse": ("labels", "logits", "weights"),
        "losses.compute_weighted_loss": ("losses", "weights"),
    }.get(case.fn, ("labels", "logits"))
    return [name for name in needed if given.get(name, 1.0 if name == "weights" else None) is None]


def blame(case: Case, message: str) -> tuple[str, ...]:
    """What the library's message must contain: the arguments concerned, or TensorFlow's words."""
    if "out-of-range" in case.tags:
        return (re.escape(message.partition(" [Op:")[0]),)
    if case.group == "args.sentinel":
        return (re.escape("` with named arguments (labels=..., logits=..., ...)"),)
    words = {
        "Reduction Key": "Invalid Reduction Key",
        "'Tlabels'": "labels",
        "'T'": "logits",
        "non-rectangular": "logits",
    }
    told = next((word for part, word in words.items() if part in message), None)
    told = told or next(iter(missing(case)), None)
    told = told or next((n for n in ("label_smoothing", "weights") if n in case.kwargs), None)
    return blame_for_shapes(case) if told is None else (told,)


def blame_for_shapes(case: Case) -> tuple[str, ...]:
    """The same where the axis or a shape is at fault."""
    name = "onehot_labels" if case.fn == "losses.softmax" else "labels"
    labels, logits = shape(case, name), shape(case, "logits")
    axis = case.kwargs.get("dim", case.kwargs.get("axis", -1))
    if logits == ():
        return ("logits",)
    if type(axis) is not int or not -1 <= axis < len(logits):
        return ("axis|dim",)
    if "sparse" in case.fn:
        return ("logits", "class") if logits[-1] == 0 else ("labels", "logits|rank")
    if labels == ():
        return ("labels",)
    return (name, "logits", re.escape(str(labels)), re.escape(str(logits)))


# --- where numba_xent departs from TensorFlow


@dataclass(frozen=True)
class Rule:
    """`selects` picks `count` cases; `expect` turns TensorFlow's outcome into ours."""

    name: str
    count: int
    selects: Callable[[Case], bool]
    expect: Callable[[Case, Outcome], Outcome]


def close(got: Any, want: Any, tol: dict[str, float]) -> bool:
    """Whether both are the same within the tolerance, NaN and infinities included."""
    got, want = (np.asarray(a).astype(np.float64) for a in (got, want))
    return got.shape == want.shape and bool(np.allclose(got, want, **tol, equal_nan=True))


def computed(case: Case, tf: Outcome, **changed: Any) -> Outcome:
    """The oracle's answer to the case, with some arguments changed, in TensorFlow's types."""
    ignored = ("dim", "name", "scope", "_sentinel")
    given = {k: v for k, v in operands(case).items() if k not in ignored}
    answer = ORACLE[case.fn](**(given | changed), upstream=case.upstream)
    dtypes = {name: oracle.as_array(x).dtype for name, x in given.items() if name in case.wrt}
    first = oracle.as_array(given["losses" if "losses" in given else "logits"]).dtype
    loss = oracle.narrow(answer.value, first)
    grads = {
        name: oracle.narrow(answer.grads[name], dtype)
        for name, dtype in dtypes.items()
        if name in answer.grads
    }
    if case.fn == "nn.v1.softmax":
        grads = {name: None if name in LABELS else grad for name, grad in grads.items()}
    grads = {name: None for name in case.wrt if name in LABELS} | grads
    return Outcome(loss=loss, grads=grads, tol=ORACLE_TOLERANCE.get(first.name, {}))


def refused(error: type[Exception]) -> Callable[[Case, Outcome], Outcome]:
    """Expect an exception whatever TensorFlow did."""
    return lambda case, tf: Outcome(error, blame(case, ""), tol=tf.tol)


def sentinel_of_2_3(case: Case) -> bool:
    """D1: the v1 functions have the signature of TensorFlow 2.3, with `_sentinel` first.

    One positional argument alone is a ValueError in all versions, so no departure.
    """
    alone = len(case.args) == 1 and not case.kwargs
    return (
        case.fn.startswith("nn.v1") and bool("_sentinel" in case.kwargs or case.args) and not alone
    )


def as_2_3(case: Case, tf: Outcome) -> Outcome:
    """The outcome of the version whose signature we have."""
    return recorded(case, "2.3.0")


def axis_alone(case: Case) -> bool:
    """D2: `axis` is an alias of `dim`, and works without `dim=None`."""
    return case.fn == "nn.v1.softmax" and set(case.kwargs) == {"labels", "logits", "axis"}


def any_negative_axis(case: Case) -> bool:
    """D3: negative axes down to -rank count from the end."""
    axis = case.kwargs.get("dim", case.kwargs.get("axis"))
    return type(axis) is int and -len(shape(case, "logits")) <= axis < -1


def axis_of_no_integer_type(case: Case) -> bool:
    """D3: an axis of another type than an integer is a TypeError (TensorFlow: AssertionError)."""
    return isinstance(case.kwargs.get("dim"), str | bool)


def from_dim(case: Case, tf: Outcome) -> Outcome:
    """The oracle's answer where the axis is spelled `dim` or `axis`."""
    return computed(case, tf, axis=case.kwargs.get("dim", case.kwargs.get("axis")))


def dim_of_compat_v1(case: Case) -> bool:
    """`softmax_cross_entropy_with_logits_v2` also takes `dim`, as in tf.compat.v1."""
    return case.fn == "nn.v2.softmax" and "dim" in case.kwargs


def dense_shapes(case: Case) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shapes of labels and logits of an nn case about shapes."""
    if case.group != "dense.shapes":
        return None
    return shape(case, "labels"), shape(case, "logits")


def labels_fit(case: Case) -> bool:
    """Labels have the rank of the logits, and in each dimension 1 or their size."""
    labels, logits = dense_shapes(case)
    return len(labels) == len(logits) and all(
        n in (1, m) for n, m in zip(labels, logits, strict=True)
    )


def broadcast_labels(case: Case) -> bool:
    """D4: labels broadcast at equal rank in any dimension, and their gradient is summed.

    TensorFlow refuses some of these, and most gradients of the others.
    """
    if dense_shapes(case) is None or not labels_fit(case):
        return False
    labels, logits = dense_shapes(case)
    return labels != logits and bool({"error", "grads_error"} & case.outcome().keys())


def mismatched_labels(case: Case) -> bool:
    """D4: no other rank, no other number of examples, no broadcasting of the logits."""
    if dense_shapes(case) is None or labels_fit(case):
        return False
    return "error" not in case.outcome()


def zero_classes_and_examples(case: Case) -> bool:
    """D13: an empty batch of zero classes has an empty result."""
    return case.group in ("dense.shapes", "losses.shapes") and shape(case, "logits") == (0, 0)


def bfloat16_sparse(case: Case) -> bool:
    """D9: bfloat16 sparse is computed in float32 like everything else."""
    return "tf-native-bf16" in case.tags


def masked_class(case: Case) -> bool:
    """D10: a label of exactly 0 on a logit of -inf, or so far below that it underflows, costs 0.

    TensorFlow multiplies 0 by inf. A row with NaN, +inf or only -inf stays NaN.
    """
    given = operands(case)
    if case.fn not in ("nn.v2.softmax", "losses.softmax") or "error" in case.outcome():
        return False
    labels = oracle.as_array(given.get("labels", given.get("onehot_labels")))
    logits = oracle.as_array(given["logits"])
    if labels.shape != logits.shape or 0 in labels.shape or given.get("label_smoothing"):
        return False
    logits = logits.astype(oracle.compute_dtype(logits.dtype))
    with np.errstate(invalid="ignore", over="ignore"):
        distance = logits - logits.max(-1, keepdims=True)
    row = np.isfinite(logits.max(-1)) & ((labels == 0) & (distance == -np.inf)).any(-1)
    weights = np.asarray(given.get("weights", 1.0))
    quotient = given.get("reduction", oracle.NONZERO) in (oracle.MEAN, oracle.NONZERO)
    return bool(row.any()) and not (quotient and not weights.any())


def float64_throughout(case: Case) -> bool:
    """D12: float64 does not pass through float32."""
    return case.group == "cwl.misc" and "float64 passes through float32" in case.raw.get("note", "")


def float32_smoothing(case: Case) -> bool:
    """D19: smoothed labels of halves are not rounded to the half type.

    It shows where such a rounding is large beside the gradient, softmax - label.
    """
    if case.group != "losses.smoothing" or "error" in case.outcome():
        return False
    given, tf = operands(case), recorded(case)
    half = oracle.as_array(given["logits"]).dtype
    if half not in oracle.HALVES:
        return False
    labels, one = given["onehot_labels"].astype(half), half.type(1)
    amount = half.type(given["label_smoothing"])
    rounded = labels * (one - amount) + amount / half.type(labels.shape[-1])
    with_rounding = computed(case, tf, onehot_labels=rounded, label_smoothing=0).grads["logits"]
    without = computed(case, tf).grads["logits"]
    return not close(with_rounding, without, ORACLE_TOLERANCE[half.name])


def kept_denormals(case: Case) -> bool:
    """D14: results below the smallest normal number are not flushed to zero."""
    if case.group != "dense.denormal":
        return False
    gradient = computed(case, recorded(case)).grads["logits"]
    return bool(((gradient != 0) & (np.abs(gradient) < np.finfo(np.float32).tiny)).any())


def denormal(case: Case, tf: Outcome) -> Outcome:
    """The oracle's answer, to within two of the smallest numbers."""
    return replace(computed(case, tf), tol={"rtol": 2e-6, "atol": 2e-45})


def no_label_gradient(case: Case) -> bool:
    """D17: labels have no gradient in v1 and in losses; asking for it is an error."""
    return (
        case.fn in ("nn.v1.softmax", "losses.softmax")
        and any(name in LABELS for name in case.wrt)
        and bool(expected(case, until="D17").grads)
    )


def ask_for_v2(case: Case, tf: Outcome) -> Outcome:
    """Every label gradient becomes a ValueError."""
    grads = {name: ValueError if name in LABELS else grad for name, grad in tf.grads.items()}
    return replace(tf, grads=grads)


RULES = [
    Rule("D1 sentinel of TensorFlow 2.3", 7, sentinel_of_2_3, as_2_3),
    Rule("D2 axis alone", 2, axis_alone, from_dim),
    Rule("D3 negative axes", 4, any_negative_axis, from_dim),
    Rule("D3 type of axis", 2, axis_of_no_integer_type, refused(TypeError)),
    Rule("dim of compat.v1", 1, dim_of_compat_v1, from_dim),
    Rule("D4 labels broadcast", 8, broadcast_labels, computed),
    Rule("D4 labels refused", 11, mismatched_labels, refused(ValueError)),
    Rule("D9 bfloat16 sparse", 7, bfloat16_sparse, computed),
    Rule("D10 masked classes", 12, masked_class, computed),
    Rule("D12 float64 throughout", 1, float64_throughout, computed),
    Rule("D13 zero classes", 3, zero_classes_and_examples, computed),
    Rule("D14 denormals", 2, kept_denormals, denormal),
    Rule("D19 halves in float32", 6, float32_smoothing, computed),
    Rule("D17 no label gradient", 112, no_label_gradient, ask_for_v2),
]


def expected(case: Case, until: str = "the end") -> Outcome:
    """TensorFlow's outcome, changed by each rule that selects the case."""
    outcome = recorded(case)
    for rule in RULES:
        if rule.name.startswith(until):
            break
        if rule.selects(case):
            outcome = rule.expect(case, outcome)
    return outcome


# --- the library against that


def same(got: Any, want: Any, tol: dict[str, float]) -> None:
    """Assert the same type, shape and, within the tolerance, value."""
    if want is None:
        assert got is None
        return
    assert isinstance(got, np.ndarray | np.generic)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if want.dtype.kind in "iub":
        np.testing.assert_array_equal(got, want)
    else:
        wide = (np.asarray(a).astype(np.float64) for a in (got, want))
        np.testing.assert_allclose(*wide, **tol, equal_nan=True)


def arguments(case: Case) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments for our function."""
    return ([], operands(case)) if case.fn == "nn.v2.sparse" else (case.args, case.kwargs)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_value(case: Case) -> None:
    """The value of every case, or its exception and what the message speaks of."""
    fn, (args, kwargs), want = LIBRARY[case.fn], arguments(case), expected(case)
    if want.error:
        with pytest.raises(want.error) as caught:
            fn(*args, **kwargs)
        assert caught.type is want.error
        for words in want.says:
            assert re.search(words, str(caught.value)), (words, str(caught.value))
        return
    got = fn(*args, **kwargs)
    same(got, want.loss, want.tol)
    if case.fn.startswith("losses.") and want.loss is not None and want.loss.shape == ():
        assert isinstance(got, np.generic)


def differentiable(case: Case) -> bool:
    """Whether there is anything to differentiate: integer losses have no gradient."""
    if case.fn == "losses.compute_weighted_loss":
        losses = operands(case)["losses"]
        return losses is None or oracle.as_array(losses).dtype in oracle.FLOATS
    return case.fn != "losses.Reduction.validate"


@pytest.mark.parametrize("case", [*filter(differentiable, cases())], ids=lambda case: case.id)
def test_gradient(case: Case) -> None:
    """Value and gradients in one call; a call that raises does so here too.

    A case recorded without gradients must give the same value with one.
    """
    fn, (args, kwargs), want = LIBRARY[case.fn], arguments(case), expected(case)
    first = "losses" if case.fn == "losses.compute_weighted_loss" else "logits"
    for name, grad in want.grads.items():
        if grad is ValueError:
            with pytest.raises(ValueError, match="_v2"):
                xent.value_and_grad(fn, wrt=name)(*args, **kwargs)
            with pytest.raises(ValueError, match="_v2"):
                xent.value_and_grad(fn, wrt=(first, name))(*args, **kwargs)
    if want.error:
        with pytest.raises(want.error) as caught:
            xent.value_and_grad(fn, wrt=first)(*args, **kwargs)
        assert caught.type is want.error
        return
    names = [name for name, grad in want.grads.items() if grad is not ValueError] or [first]
    for name in names:
        value, grad = xent.value_and_grad(fn, wrt=name)(*args, **kwargs, upstream=case.upstream)
        same(value, want.loss, want.tol)
        if name in want.grads:
            same(grad, want.grads[name], want.tol)
    value, grads = xent.value_and_grad(fn, wrt=tuple(names))(
        *args, **kwargs, upstream=case.upstream
    )
    same(value, want.loss, want.tol)
    assert isinstance(grads, tuple)
    assert len(grads) == len(names)
    for name, grad in zip(names, grads, strict=True):
        if name in want.grads:
            same(grad, want.grads[name], want.tol)


@pytest.mark.parametrize("case", [c for c in cases() if "hvp_vector" in c.raw], ids=lambda c: c.id)
def test_second_order(case: Case) -> None:
    """The recorded Hessian times vector, as the slope of our gradient along the vector.

    Central differences in float64 with steps h and h/2, combined so that the error in h^2
    cancels: with h = 2^-10 what is left is about h^4 = 1e-12 from the formula and 2^-53/h = 1e-13
    from rounding.
    """
    (args, kwargs), tf = arguments(case), case.outcome()
    assert not args
    labels = next(name for name in LABELS if name in kwargs)
    if kwargs[labels].dtype.kind == "f":
        kwargs[labels] = kwargs[labels].astype(np.float64)
    logits = kwargs.pop("logits").astype(np.float64)
    vector = array(case.hvp_vector.get("array", case.hvp_vector)).astype(np.float64)
    gradient = xent.value_and_grad(LIBRARY[case.fn])

    def slope(h: float) -> np.ndarray:
        above, below = (
            gradient(**kwargs, logits=logits + s * h * vector, upstream=case.upstream)[1]
            for s in (1, -1)
        )
        return (above - below) / (2 * h)

    got = (4 * slope(2.0**-11) - slope(2.0**-10)) / 3
    want = tf["hvp"].astype(np.float64)
    tol = {"rtol": case.tol["rtol"], "atol": max(case.tol["atol"], 1e-11)}
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(got, want, **tol)


# --- the rules themselves


def differ(a: Outcome, b: Outcome) -> bool:
    """Whether two outcomes could not both hold, judged with b's tolerance."""
    if a.error or b.error:
        return a.error is not b.error
    if not close(a.loss, b.loss, b.tol):
        return True
    for name, grad in b.grads.items():
        other = a.grads.get(name)
        if not isinstance(grad, np.ndarray) or not isinstance(other, np.ndarray):
            if grad is not other:
                return True
        elif not close(other, grad, b.tol):
            return True
    return False


def test_all_cases_are_there() -> None:
    """Nothing was lost on the way into the repository."""
    assert len(cases()) == 907
    assert len({case.id for case in cases()}) == 907


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule(rule: Rule) -> None:
    """A rule selects as many cases as it says, and only cases where TensorFlow differs."""
    selected = [case for case in cases() if rule.selects(case)]
    assert len(selected) == rule.count
    assert selected
    for case in selected:
        before = expected(case, until=rule.name)
        assert differ(before, rule.expect(case, before)), case.id


def test_rules_do_not_overlap() -> None:
    """No case is re-expected twice, except that labels without gradient go with anything."""
    *others, _ = RULES
    for case in cases():
        assert sum(rule.selects(case) for rule in others) <= 1, case.id


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_oracle(case: Case) -> None:
    """The oracle of these tests agrees with TensorFlow, or with a rule, on every value."""
    want = expected(case)
    if want.error or want.loss is None:
        return
    axis = case.kwargs.get("axis", case.kwargs.get("dim"))
    got = computed(case, want, **({} if axis is None else {"axis": axis}))
    assert not differ(replace(got, grads={}), replace(want, grads={}))
    for name, grad in want.grads.items():
        if isinstance(grad, np.ndarray):
            assert close(got.grads[name], grad, want.tol)


# --- collections


def test_get_losses() -> None:
    """The recorded scenario of get_losses: what a scope keeps."""
    scenario = document()["get_losses"]
    items = [
        SimpleNamespace() if item["name"] is None else SimpleNamespace(**item)
        for item in scenario["losses"]
    ]
    with xent.losses.collecting():
        for item in items:
            assert xent.losses.add_loss(item) is None
        for scope, kept in scenario["queries"]:
            got = xent.losses.get_losses(scope)
            assert [next(i for i, x in enumerate(items) if x is g) for g in got] == kept
        with pytest.raises(re.error):
            xent.losses.get_losses("(")
    assert xent.losses.get_losses() == []
