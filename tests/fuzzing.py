"""Random calls of every public function: right ones, wrong ones, and hostile ones.

A call is made from a valid problem. Its operands are laid out anywhere in memory or hidden behind
any protocol, which must not change the answer; then perhaps something is spoiled, which must raise
ValueError or TypeError with a message that names an argument. Whatever happens, operands stay as
they were, `out` is written by calls that return and by no others, nothing warns, and nothing takes
long. Every call follows from a seed and its number:

    python tests/fuzzing.py --calls 1000000 --seed 1
    python tests/fuzzing.py --seed 1 --only 4711
"""

from __future__ import annotations

import argparse
import faulthandler
import inspect
import random
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hostile
import ml_dtypes
import numpy as np
import oracle
import strategies as data
from calls import SOFTMAX_LOSS, SPARSE, SPARSE_LOSS, V1, V2, WEIGHTED

import numba_xent as xent

FLOATS = data.DTYPES
DENSE_LABELS = (*FLOATS, *map(np.dtype, ("i1", "u1", "i4", "i8", "?", "u2", "c8", ">f4")))
# Around the widths of registers, tiles and chunks; larger problems are rare.
CLASSES = (1, 2, 3, 5, 8, 10, 15, 16, 17, 31, 33, 64, 65, 100, 130, 257)
ALLOWED_SECONDS = 100

Case = dict[str, Any]


@dataclass
class Call:
    """A call, the answer if it is a valid one, and what must stay as it is."""

    fn: Callable[..., Any]
    kwargs: dict[str, Any]
    wrt: Any = None
    spoiled: list[str] = field(default_factory=list)
    answer: oracle.Answer | None = None
    dtype: Any = None
    tolerance: dict[str, Any] = field(default_factory=dict)
    operands: dict[str, np.ndarray] = field(default_factory=dict)
    memory: list[np.ndarray] = field(default_factory=list)
    may_refuse: bool = False


# --- numbers


def logits_of(r: random.Random, rng: np.random.Generator, shape: tuple, dtype: np.dtype) -> Any:
    """Logits of all sizes, now and then with NaN and infinities."""
    kind = r.randrange(8)
    z = rng.standard_normal(shape)
    if kind == 1:
        z = z * 100
    elif kind == 2:
        z = np.round(z)
    elif kind == 3:
        z = z * 1e-3 + r.choice((-1e4, 1e4, 300.0))
    elif kind == 4:
        z = np.where(rng.random(shape) < 0.3, -np.inf, z)
    elif kind == 5:
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -87.5, 88.8])
        z = np.where(rng.random(shape) < 0.1, rng.choice(special, shape), z)
    elif kind == 6:
        z = np.full(shape, r.choice((np.nan, np.inf, -np.inf, 0.0, 60000.0)))
    with np.errstate(all="ignore"):
        return np.asarray(z, np.float64).astype(dtype)


def dense_labels(r: random.Random, rng: np.random.Generator, shape: tuple, axis: int) -> Any:
    """One-hot, soft, negative or zero labels of a random dtype, perhaps to be broadcast."""
    own = tuple(1 if r.random() < 0.1 else n for n in shape)
    dtype = r.choice(FLOATS) if r.random() < 0.7 else r.choice(DENSE_LABELS)
    kind = r.randrange(4)
    if dtype.kind in "iu?":
        return rng.integers(0, 2, own).astype(dtype)
    if kind == 0:
        labels = (rng.random(own) < 0.2).astype(np.float64)
    elif kind == 1:
        labels = rng.standard_normal(own)
    elif kind == 2:
        labels = np.zeros(own)
    else:
        labels = rng.exponential(size=own)
        total = labels.sum(axis, keepdims=True)
        labels = labels / np.where(total == 0, 1, total)
    return labels.astype(dtype)


def shape_of(r: random.Random) -> tuple[int, ...]:
    """Mostly two axes and a few hundred numbers; now and then none at all."""
    rank = r.choice((1, 2, 2, 2, 2, 3, 3, 4, 5))
    shape = [r.choice((1, 2, 3, 4, 5, 7)) for _ in range(rank)]
    shape[r.randrange(rank)] = r.choice(CLASSES)
    if r.random() < 0.2:
        shape[r.randrange(rank)] = r.choice((16, 20, 33))
    if r.random() < 0.03:
        shape[r.randrange(rank)] = 0
    if r.random() < 0.005:
        return r.choice(((700, 100), (100, 700), (70_000, 2), (3, 9000), (9000, 3), (3, 5, 5000)))
    return tuple(shape)


# --- the same numbers, told in another way


def disguised(r: random.Random, a: np.ndarray, call: Call) -> Any:
    """The same numbers in another place, or behind another object."""
    call.memory.append(a)
    if r.random() < 0.4:
        return a
    if r.random() < 0.6:
        b = r.choice(data.LAYOUTS)(a)
        call.memory.append(b)
        return b
    native = a.dtype.isnative
    exact = a.dtype in (np.dtype(np.float32), np.dtype(np.int32)) and native and a.size > 0
    plain = native and a.dtype.kind in "fi"
    ways = [
        lambda: hostile.ByMethod(a),
        lambda: a.view(hostile.Subclass),
        lambda: hostile.ByInterface(a) if native and a.dtype.kind in "fiu" else a,
        lambda: hostile.ByDlpack(a) if plain else a,
        lambda: a.tolist() if exact else a,
        lambda: tuple(a) if exact and a.ndim > 1 else a,
        lambda: a.view(np.matrix) if a.ndim == 2 else a,
        lambda: memoryview(a) if plain else a,
        lambda: a[()] if a.ndim == 0 else a,
    ]
    return r.choice(ways)()


# --- right calls


def begin(r: random.Random, fn: Callable[..., Any]) -> Call:
    """A valid call of a function, with its answer."""
    rng = np.random.default_rng(r.getrandbits(64))
    if fn is WEIGHTED:
        return weighted(r, rng)
    shape = shape_of(r)
    dtype = r.choice(FLOATS)
    sparse = fn in (SPARSE, SPARSE_LOSS)
    axis = len(shape) - 1 if fn not in (V1, V2) or r.random() < 0.5 else r.randrange(len(shape))
    if sparse and shape[-1] == 0:
        shape = (*shape[:-1], 3)
    logits = logits_of(r, rng, shape, dtype)
    batch = shape[:axis] + shape[axis + 1 :]
    call = Call(fn, {}, dtype=dtype)
    told: dict[str, Any] = {}
    if sparse:
        labels = np.asarray(rng.integers(0, shape[-1], batch), r.choice(("i4", "i8")))
    elif fn is SOFTMAX_LOSS:
        labels = dense_labels(r, rng, shape, axis)
        labels = np.array(np.broadcast_to(labels, shape))
    else:
        labels = dense_labels(r, rng, shape, axis)
        if axis != len(shape) - 1 or r.random() < 0.3:
            spelling = r.choice(("axis", "dim"))
            told[spelling] = axis - r.choice((0, len(shape)))
    names = ("onehot_labels" if fn is SOFTMAX_LOSS else "labels", "logits")
    arguments: dict[str, Any] = {names[0]: labels, "logits": logits}
    options: dict[str, Any] = {}
    if fn in (SOFTMAX_LOSS, SPARSE_LOSS):
        if r.random() < 0.7:
            arguments["weights"] = weights_for(r, rng, batch)
        if fn is SOFTMAX_LOSS and r.random() < 0.5:
            options["label_smoothing"] = r.choice((0, 0.1, 0.5, 1.0, True, -0.5))
        options["reduction"] = r.choice(oracle.REDUCTIONS)
    elif fn in (V1, V2):
        options["axis"] = axis
    call.wrt = choose_wrt(r, fn, labels)
    reduced = options.get("reduction", oracle.NONE) != oracle.NONE
    if call.wrt is not None and r.random() < 0.5:
        arguments["upstream"] = rng.standard_normal(() if reduced else batch).astype(dtype)
    truth = oracle.FUNCTIONS[f"{fn.__module__.removeprefix('numba_xent.')}.{fn.__name__}"]
    upstream = {"upstream": arguments["upstream"]} if "upstream" in arguments else {}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call.answer = truth(
            **{n: a for n, a in arguments.items() if n != "upstream"}, **options, **upstream
        )
        call.tolerance = tolerance_of(arguments, names[0], axis, sparse, options)
    options.pop("axis", None)
    call.operands = arguments
    call.kwargs = told | options
    call.kwargs |= {name: disguised(r, a, call) for name, a in arguments.items()}
    if call.wrt is not None and r.random() < 0.6:
        add_out(r, call, logits, arguments)
    return call


def weighted(r: random.Random, rng: np.random.Generator) -> Call:
    """A valid call of `compute_weighted_loss`."""
    shape = tuple(r.choice((1, 2, 3, 5, 30)) for _ in range(r.choice((0, 1, 1, 2, 3))))
    dtype = r.choice(FLOATS)
    losses = logits_of(r, rng, shape, dtype)
    call = Call(WEIGHTED, {}, dtype=dtype, wrt=r.choice((None, "losses", "weights")))
    arguments: dict[str, Any] = {"losses": losses}
    if r.random() < 0.8:
        arguments["weights"] = weights_for(r, rng, shape)
    reduction = r.choice(oracle.REDUCTIONS)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call.answer = oracle.compute_weighted_loss(**arguments, reduction=reduction)
        weights = np.asarray(arguments.get("weights", 1.0)).astype(np.float64)
        x = np.abs(losses.astype(np.float64))
        call.tolerance = spread_tolerance(
            x, np.ones_like(x), None, weights, {"reduction": reduction}
        )
        call.tolerance["losses"] = call.tolerance.pop("factor")
    call.operands = arguments
    call.kwargs = {"reduction": reduction}
    call.kwargs |= {name: disguised(r, a, call) for name, a in arguments.items()}
    if call.wrt == "weights" and "weights" not in arguments:
        call.wrt = None
    return call


def weights_for(r: random.Random, rng: np.random.Generator, batch: tuple[int, ...]) -> np.ndarray:
    """Weights that can be broadcast to the losses, many of them 0."""
    own = () if r.random() < 0.2 else tuple(1 if r.random() < 0.2 else n for n in batch)
    dtype = r.choice((*FLOATS, np.dtype("i4"), np.dtype("?")))
    return np.asarray(rng.integers(0, 4, own) * (1 if dtype.kind in "i?" else 0.75)).astype(dtype)


def choose_wrt(r: random.Random, fn: Callable[..., Any], labels: np.ndarray) -> Any:
    """What to differentiate by, if anything."""
    if r.random() < 0.3:
        return None
    if fn is V2 and labels.dtype in FLOATS and r.random() < 0.4:
        return r.choice(("labels", ("logits", "labels"), ("labels",)))
    return r.choice(("logits", "logits", ("logits",)))


def add_out(r: random.Random, call: Call, logits: np.ndarray, arguments: dict[str, Any]) -> None:
    """An `out` for a gradient by the logits: apart, in place, or partly over something read."""
    if call.wrt != "logits":
        return
    where = r.randrange(4)
    given = call.kwargs["logits"]
    if where == 0 and isinstance(given, np.ndarray) and given.flags.writeable:
        if given.dtype.isnative:
            call.kwargs["out"] = given
            call.memory = [
                a for a in call.memory if a is not given and not np.may_share_memory(a, given)
            ]
        return
    if where == 1 and logits.flags.c_contiguous and logits.size > 1:
        # The same memory, some elements on.
        shift = r.choice((1, 2, 16, logits.size))
        room = np.zeros(logits.size + shift, logits.dtype)
        view = room[: logits.size].reshape(logits.shape)
        view[...] = logits
        call.kwargs["logits"] = view
        call.kwargs["out"] = room[shift:].reshape(logits.shape)
        call.may_refuse = True
        return
    out = np.full_like(logits, 7, order="C", subok=False)
    layout = r.choice(data.WRITABLE_LAYOUTS) if r.random() < 0.5 else np.asarray
    call.kwargs["out"] = layout(out)


# --- how near the answer must be


def tolerance_of(
    arguments: dict[str, Any], labels_name: str, axis: int, sparse: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """Bounds on errors, for an eps of 1: of the value, and of each gradient."""
    logits = arguments["logits"]
    z = logits.astype(np.float64)
    if 0 in z.shape:
        return {"value": 1.0, "logits": 1.0, "labels": 1.0, "factor": 1.0}
    finite = np.where(np.isfinite(z), z, 0.0)
    reach = 1 + np.log(z.shape[axis]) + finite.max(axis) - finite.min(axis)
    labels = np.ones(()) if sparse else np.abs(oracle.wide(arguments[labels_name], logits.dtype))
    labels = np.nan_to_num(labels.astype(np.float64), nan=0.0)
    mass = np.ones_like(reach) if sparse else np.broadcast_to(labels, z.shape).sum(axis) + 1
    loss = reach * mass
    weights = np.asarray(arguments.get("weights", 1.0)).astype(np.float64)
    out = spread_tolerance(loss, mass, axis, weights, options)
    up = np.abs(np.asarray(arguments.get("upstream", 1.0)).astype(np.float64))
    factor = np.asarray(out.pop("factor") * up)
    biggest = 1 + (0 if sparse else labels.max(initial=0))
    out["logits"] = np.max(factor, initial=0) * biggest + 1e-30
    out["labels"] = max(float((reach * up).sum()), 1e-30)
    return out


def spread_tolerance(
    loss: np.ndarray, mass: np.ndarray, axis: int | None, weights: np.ndarray, options: Any
) -> dict[str, Any]:
    """Carry the bound on each loss through weights and reduction."""
    del mass, axis
    reduction = options.get("reduction", oracle.NONE)
    loss = np.where(np.isfinite(loss), loss, 0.0)
    w = np.abs(weights)
    if w.ndim == loss.ndim + 1:
        w = w[..., 0]
    full = np.broadcast_to(w, loss.shape)
    if reduction == oracle.NONE:
        return {"value": loss * full + 1e-30, "weights": float(loss.sum()) + 1e-30, "factor": full}
    divisor = {
        oracle.SUM: 1.0,
        oracle.MEAN: float(full.sum()),
        oracle.BATCH: float(loss.size),
        oracle.NONZERO: float(np.count_nonzero(full)),
    }[reduction]
    if divisor == 0:
        return {"value": 1.0, "weights": 1.0, "factor": np.asarray(1.0)}
    return {
        "value": float((loss * full).sum()) / divisor + 1e-30,
        "weights": 2 * float(loss.sum()) / divisor + 1e-30,
        "factor": full / divisor,
    }


def differs(got: Any, want: Any, dtype: Any, scale: Any, eps: float) -> str | None:
    """What is wrong with a result, if anything is."""
    got = np.asarray(got)
    if got.shape != np.shape(want):
        return f"shape {got.shape} instead of {np.shape(want)}"
    if got.dtype != dtype:
        return f"dtype {got.dtype} instead of {dtype}"
    g, w = got.astype(np.float64), oracle.narrow(want, dtype).astype(np.float64)
    eps *= 8
    tiny = float(ml_dtypes.finfo(dtype).smallest_subnormal) * 4
    with np.errstate(all="ignore"):
        near = np.abs(g - w) <= eps * (np.abs(w) + scale) + tiny
    same = (g == w) | (np.isnan(g) & np.isnan(w)) | near
    # Near the largest number of a half, one side may have rounded up to infinity.
    limit = float(ml_dtypes.finfo(dtype).max) * (1 - eps)
    with np.errstate(invalid="ignore"):
        same |= (np.abs(g) >= limit) & (np.abs(w) >= limit) & (np.sign(g) == np.sign(w))
    if same.all():
        return None
    at = tuple(int(i[0]) for i in np.nonzero(~same)) if g.ndim else ()
    return f"{int((~same).sum())} of {g.size} wrong, {g[at]!r} instead of {w[at]!r} at {at}"


# --- wrong calls


def spoil(r: random.Random, call: Call) -> None:
    """Make an argument one that must be refused."""
    kwargs = call.kwargs
    names = [n for n in ("labels", "onehot_labels", "logits", "losses", "weights") if n in kwargs]
    ways = hostile.ways(r, call.fn, names, call.operands, call.wrt)
    name, value = r.choice(ways)()
    if name == "weights" and call.fn is WEIGHTED and call.dtype == np.float64:
        # Beside float64 losses, Python's floats are float64, and large ones are right.
        name, value = "losses", "x"
    kwargs[name] = value
    call.spoiled.append(name)


def make(r: random.Random) -> Call:
    """The call that follows from random numbers."""
    fn = r.choice((V1, V2, SPARSE, SOFTMAX_LOSS, SPARSE_LOSS, WEIGHTED))
    call = begin(r, fn)
    while r.random() < (0.4 if not call.spoiled else 0.2):
        spoil(r, call)
    return call


# --- running them

HINT = (
    "axis and dim",
    "argument",
    "Shapes",
    "Only call",
    "'dim' and 'axis'",
    "Both labels and logits",
)


def names_an_argument(call: Call, message: str) -> bool:
    """Whether a message tells which argument is wrong."""
    known = [*inspect.signature(call.fn).parameters, "upstream", "out", "wrt"]
    return any(name in message for name in known) or any(hint in message for hint in HINT)


def run(call: Call) -> str:
    """Make a call, and say how it ended; AssertionError if that is not as it should be."""
    fn = call.fn if call.wrt is None else xent.value_and_grad(call.fn, call.wrt)
    kwargs = dict(call.kwargs)
    if call.wrt is None:
        kwargs.pop("upstream", None)
        kwargs.pop("out", None)
    out = kwargs.get("out")
    before = [a.tobytes() for a in call.memory]
    out_before = out.tobytes() if issubclass(type(out), np.ndarray) else None
    refusal: Exception | None = None
    with warnings.catch_warnings(), xent.losses.collecting():
        warnings.simplefilter("error")
        try:
            result = fn(**kwargs)
        except (ValueError, TypeError) as error:
            refusal = error
            collected = xent.losses.get_losses()
    if refusal is not None:
        message = str(refusal)
        assert names_an_argument(call, message), f"names no argument: {refusal!r}"
        assert call.spoiled or (call.may_refuse and "out" in message), f"refused: {refusal!r}"
        assert out_before is None or out.tobytes() == out_before, "out was written"
        assert collected == [], "a loss was collected"
        end = type(refusal).__name__
    else:
        assert not any(name in kwargs for name in call.spoiled), "accepted"
        check(call, result, out)
        end = "returned"
    for a, was in zip(call.memory, before, strict=True):
        assert a.tobytes() == was, "an operand was written"
    return end


def check(call: Call, result: Any, out: Any) -> None:
    """Compare a result with the truth."""
    assert call.answer is not None
    value, gradients = result, ()
    if call.wrt is not None:
        value, gradients = result
        if not isinstance(call.wrt, tuple):
            gradients = (gradients,)
            assert out is None or gradients[0] is out, "out is not what is returned"
    eps = float(ml_dtypes.finfo(call.dtype).eps)
    wrong = differs(value, call.answer.value, call.dtype, call.tolerance["value"], eps)
    assert wrong is None, f"value: {wrong}"
    wrt = call.wrt if isinstance(call.wrt, tuple) else (call.wrt,)
    for name, gradient in zip(wrt, gradients, strict=False):
        if gradient is None:
            continue
        want = call.answer.grads[name]
        got = np.asarray(gradient)
        got = got.astype(got.dtype.newbyteorder("="))
        # Rounded once to its own dtype, from errors of the logits' dtype.
        eps = max(float(ml_dtypes.finfo(d).eps) for d in (call.dtype, got.dtype))
        with np.errstate(all="ignore"):
            want = np.asarray(want).reshape(got.shape)
        wrong = differs(got, want, got.dtype, call.tolerance[name], eps)
        assert wrong is None, f"gradient by {name}: {wrong}"


def late(*_: Any) -> None:
    """End a call that takes too long."""
    raise AssertionError(f"not over after {ALLOWED_SECONDS} s")


def described(call: Call) -> str:
    """A call in a few lines."""
    lines = [f"{call.fn.__name__} by {call.wrt}, spoiled: {call.spoiled or 'nothing'}"]
    for name, value in call.kwargs.items():
        if issubclass(type(value), np.ndarray):
            told = f"{type(value).__name__} {value.dtype} {value.shape} strides {value.strides}"
        else:
            told = f"{type(value).__name__} {hostile.shown(value)}"
        lines.append(f"    {name}: {told}")
    return "\n".join(lines)


def fuzz(seed: int, first: int, count: int, most: int = 20) -> tuple[Counter[str], list[str]]:
    """Make so many calls: how they ended, and descriptions of those that went wrong."""
    ends: Counter[str] = Counter()
    findings: list[str] = []
    has_alarm = hasattr(signal, "SIGALRM")
    if has_alarm:
        signal.signal(signal.SIGALRM, late)
    for number in range(first, first + count):
        call = make(random.Random(f"{seed}/{number}"))
        if has_alarm:
            signal.alarm(ALLOWED_SECONDS)
        try:
            ends[run(call)] += 1
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            ends["wrong"] += 1
            told = str(error) if isinstance(error, AssertionError) else repr(error)
            findings.append(f"seed {seed} number {number}: {told[:300]}\n  {described(call)}")
            if len(findings) >= most:
                break
        finally:
            if has_alarm:
                signal.alarm(0)
    return ends, findings


def main() -> int:
    """Make calls and print what was found; 1 if anything was."""
    parser = argparse.ArgumentParser(description="Random calls of every public function.")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first call")
    parser.add_argument("--only", type=int, help="the number of the only call")
    options = parser.parse_args()
    faulthandler.enable()
    first, count = options.first, options.calls
    if options.only is not None:
        first, count = options.only, 1
        print(described(make(random.Random(f"{options.seed}/{first}"))))
    start = time.perf_counter()
    ends: Counter[str] = Counter()
    findings: list[str] = []
    for begin_at in range(first, first + count, 10_000):
        some = min(10_000, first + count - begin_at)
        more, found = fuzz(options.seed, begin_at, some)
        ends.update(more)
        findings += found
        if count > some:
            print(f"{begin_at + some - first} calls, {dict(ends)}", file=sys.stderr, flush=True)
        if len(findings) >= 40:
            break
    print("\n".join(findings))
    seconds = time.perf_counter() - start
    print(f"{sum(ends.values())} calls in {seconds:.0f} s: {dict(ends)}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
