"""Bugs that were put into the CUDA kernels on purpose: the interpreter must report each.

A mutant is the source of one module with one line changed, compiled and run like the original, on a
problem that the original solves.
"""

import functools
import hashlib
import inspect
from types import ModuleType

import numpy as np
import oracle
import pytest

pytest.importorskip("numba_cuda", reason="the CUDA kernels are compiled by numba-cuda")

import ptx
from ptx_solver import CAPABILITY, solve

from numba_xent._cuda import cache, elementwise, kernels
from numba_xent._cuda.task import flat

F32 = np.float32


def sparse_rows(n, rows=3, **options):
    """A problem with class indices in rows."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, n)).astype(F32)
    return rng.integers(0, n, rows), logits, options


def dense_columns():
    """A problem with soft labels in columns."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 41, 33)).astype(F32)
    return (
        rng.dirichlet(np.ones(41), (1, 33)).transpose(0, 2, 1).astype(F32).copy(),
        logits,
        {"axis": 1},
    )


def sparse_columns(**options):
    """A problem with class indices in columns."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 41, 32)).astype(F32)
    return rng.integers(0, 41, (1, 32)), logits, {"axis": 1, **options}


def bad_labels():
    """Class indices that are none: rows of NaN."""
    labels, logits, options = sparse_rows(9)
    labels[:] = (10**12, -5, 3)
    return labels, logits, options


SMALL = functools.partial(sparse_rows, 57)
SHIFTED = functools.partial(sparse_rows, 57, offset=4, label_offset=0)
IN_PLACE = functools.partial(sparse_rows, 57, in_place=True)
BLOCK = functools.partial(sparse_rows, 5000, 1)
LONG = functools.partial(sparse_rows, 20_001, 1)
PARTS = functools.partial(sparse_rows, 20_001, 1, processors=132)
FAR = functools.partial(sparse_rows, 57, 2)

MUTANTS = {
    "barrier missing": ("states", "        cuda.syncthreads()\n", "        pass\n", BLOCK, "race"),
    "barrier missing in columns": ("columns", "    cuda.syncthreads()\n", "", dense_columns,
                                   "race"),
    "cluster does not wait": ("states", "        cluster_barrier()\n    else:",
                              "        pass\n    else:", LONG, "race|nobody has written"),
    "block of a cluster ends early": (
        "states", "another one reads its memory.\n        cluster_barrier()\n",
        "another one reads its memory.\n", LONG, "a block ends"),
    "half a shuffle mask": ("states", "x = x + cuda.shfl_xor_sync(FULL_WARP, x, 4)",
                            "x = x + cuda.shfl_xor_sync(0xFFFF, x, 4)", SMALL, "mask"),
    "a step of a reduction dropped": ("states", "        x = x + cuda.shfl_xor_sync(FULL_WARP, x, 2)",
                                      "        pass", SMALL, "wrong"),
    "edge one too far": ("spans", "return c if c < end else", "return c if c <= end else", SHIFTED,
                         "out of bounds|race|wrong"),
    "vector read one too far": ("tiles", "if k * WIDTH < left:\n                load_words",
                                "if k * WIDTH <= left:\n                load_words", SHIFTED,
                                "out of bounds|misaligned"),
    "vector written one too far": ("tiles", "if k * WIDTH < left:\n            if LANES > 1:",
                                   "if k * WIDTH <= left:\n            if LANES > 1:", SMALL,
                                   "out of bounds|race"),
    "vectors that are not aligned": ("spans", "        head = min(((-address) % VECTOR_BYTES) // SIZE, "
                                     "classes)\n", "        head = _NONE\n", SHIFTED, "misaligned"),
    "wrong label column": ("rows", "z = load_logit(address + label * step)",
                           "z = load_logit(address + (label ^ 1) * step)", SMALL, "wrong|out of"),
    "wrong owner of the label": ("rows", "owner = lane == owner_of(label, span)",
                                 "owner = lane == 0", IN_PLACE, "race"),
    "label not checked": ("examples", "return label if 0 <= label < task.classes else np.int64(-1)",
                          "return label", bad_labels, "out of bounds|wrong"),
    "threads without an example": ("rows", "task.classes if live else _NONE", "task.classes", SMALL,
                                   "race|out of bounds"),
    "threads that leave before a shuffle": ("rows", "    x = cuda.local.array(SLOTS, NUMBER)\n",
                                            "    if not live:\n        return\n"
                                            "    x = cuda.local.array(SLOTS, NUMBER)\n",
                                            functools.partial(sparse_rows, 57, 17), "take part"),
    "shared memory not written": ("states", "elif lane < WARPS:", "elif lane <= WARPS:", BLOCK,
                                  "nobody has written|out of bounds"),
    "maximum of another warp": ("rows", "* EXP_SCALE * exp(top - state.top)", "* EXP_SCALE", BLOCK,
                                "wrong"),
    "part of a row too long": ("split", "min(first + share, span.vectors), span.tail",
                               "first + share + 1, span.tail", PARTS, "race|out of bounds|wrong"),
    "sums of another warp": ("columns", "(place if PARTS == 1 else column)", "place", dense_columns,
                             "out of|nobody has written|wrong"),
    "factors of another example": ("columns", "source = column + i // OWN * COLUMNS",
                                   "source = column + (i + 1) // OWN % OWNERS * COLUMNS",
                                   sparse_columns, "wrong"),
    "label read after it was overwritten": (
        "columns", "if writes:\n        write_loss(",
        "if writes:\n        z[j] = load_logit(start_of(task.d_logits, outer, inner + j)"
        " + chosen[j] * task.d_logits.classes)\n        write_loss(",
        functools.partial(sparse_columns, in_place=False), "nobody has written|race"),
    "classes of another turn": ("columns", "is_label = hot[i] - to_int32(first) ==",
                                "is_label = hot[i] - to_int32(turn) + 1 ==", sparse_columns,
                                "wrong"),
    "32-bit offset": ("examples", "+ inner * tensor.inner",
                      "+ np.int64(np.int32(inner * tensor.inner))", FAR, "out of"),
    "maximum without NaN": ("rows", "        top = maximum(top, x[s])",
                            "        top = max(top, x[s])", functools.partial(
                                sparse_rows, 57, poison=True), "wrong"),
}  # fmt: skip
QUICK = {"half a shuffle mask", "vector written one too far", "wrong owner of the label",
         "vectors that are not aligned", "barrier missing", "wrong label column",
         "block of a cluster ends early", "32-bit offset"}  # fmt: skip


def mutant(module, old, new):
    """A copy of a module with one change."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, (module.__name__, old, source.count(old))
    copy = ModuleType(module.__name__)
    copy.__package__, copy.__file__ = module.__package__, module.__file__
    exec(compile(source.replace(old, new), module.__file__, "exec"), vars(copy))
    return copy


def sparse_answer(labels, logits, axis):
    """The oracle's answer for class indices along any axis."""
    answer = oracle.sparse(labels, np.moveaxis(logits, axis, -1))
    answer.grads["logits"] = np.moveaxis(answer.grads["logits"], -1, axis)
    return answer


def outcome(problem, programs):
    """What running a problem shows: a fault's message, "wrong" or "right"."""
    labels, logits, options = problem
    options = dict(options)
    if options.pop("poison", False):
        logits[1, 30] = np.nan
    axis = options.pop("axis", -1)
    dense = labels.ndim == logits.ndim
    good = labels if dense else np.where((labels >= 0) & (labels < logits.shape[axis]), labels, 0)
    answer = oracle.dense(good, logits, axis) if dense else sparse_answer(good, logits, axis)
    try:
        found = solve(labels, logits.copy(), axis, programs=programs, **options)
    except ptx.Fault as fault:
        return str(fault)
    wanted = answer.grads["logits"]
    if not dense:
        wanted = np.where(np.expand_dims(good == labels, axis), wanted, np.nan)
        answer.value = np.where(good == labels, answer.value, np.nan)
    close = np.allclose(found.losses, answer.value.astype(float), rtol=1e-5, equal_nan=True)
    close &= np.allclose(found.grads["logits"], wanted.astype(float), atol=1e-6, equal_nan=True)
    return "right" if close else "wrong"


def keep_apart(monkeypatch, change):
    """Have what is compiled from now on kept under the name of a change."""
    digest = hashlib.sha256(change.encode()).hexdigest()[:12]
    monkeypatch.setattr(kernels, "compiled", {})
    monkeypatch.setattr(
        kernels, "kept", lambda key, make: cache.kept(f"mutant_{digest}_{key}", make)
    )


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MUTANTS]
)
def test_mutants(name, monkeypatch):
    """Each seeded bug is reported, and the original is not."""
    where, old, new, problem, expected = MUTANTS[name]
    original = {"rows": kernels._MODULES["rows"], "columns": kernels._MODULES["columns"],
                "split": kernels._MODULES["split"]}.get(where) or getattr(kernels, where)  # fmt: skip
    changed = mutant(original, old, new)
    data = problem()
    run = run_far if name == "32-bit offset" else outcome

    def programs(choice):
        return ptx.parse(kernels.ptx.__wrapped__(choice, CAPABILITY))

    assert run(data, programs) == "right"
    if where in kernels._MODULES:
        for family in [f for f, m in kernels._MODULES.items() if m is original]:
            monkeypatch.setitem(kernels._MODULES, family, changed)
    else:
        monkeypatch.setattr(kernels, where, changed)
    keep_apart(monkeypatch, where + old + new)
    shown = run(problem(), programs)
    assert any(word in shown for word in expected.split("|")), shown


def run_far(data, programs):
    """Rows that lie 2**33 bytes apart: the second one is all that exists."""
    from ptx_solver import PROCESSORS, Meta, flat, make_plan  # noqa: PLC0415

    labels, logits, _ = data
    n, gap, rows = logits.shape[1], 1 << 33, 16
    metas = (
        Meta("float32", (rows + 1, n), (gap, 4)), Meta("int64", (rows + 1,), (8,)),
        Meta("float32", (rows + 1, n), (gap, 4)), None, None, None,
    )  # fmt: skip
    plan = make_plan(1, True, metas, PROCESSORS)
    memory = ptx.Memory()
    at = memory.buffer(logits[:1]) - rows * gap
    at_labels = memory.buffer(labels[:1]) - rows * 8
    out = memory.buffer(np.zeros_like(logits[:1]), writable=True, known=False)
    loss = memory.buffer(np.zeros(1, F32), writable=True, known=False)
    numbers = {"losses": loss - rows * 4, "raw": 0, "wide": 1, "states": 0, "scale_at": 0,
               "keep": 1.0, "uniform": 0.0, "scale": 1.0, "weight": 1.0}  # fmt: skip
    task = plan.task((at, at_labels, out - rows * gap, 0, 0, 0), numbers)
    (launch,) = plan.launches
    try:
        ptx.launch(programs(launch.choice), memory, launch.grid, (launch.choice.threads,),
                   flat(task), only=(1, 1))  # fmt: skip
    except ptx.Fault as fault:
        return str(fault)
    want = oracle.sparse(labels[:1], logits[:1]).value.astype(float)
    return "right" if np.allclose(memory.read(loss, 1, F32), want) else "wrong"


# ---- products and sums, element by element --------------------------------------------------

ELEMENTWISE = {
    "a product one too many": ("product", "    if at >= task.size:", "    if at > task.size:",
                               "out of bounds"),
    "stride of another axis": ("product", "k * operand.third +", "k * operand.second +",
                               "wrong|out of bounds"),
    "32-bit index": ("product", "i * operand.first +", "np.int64(np.int32(i * operand.first)) +",
                     "out of bounds"),
    "shift forgotten": ("product", "x -= load_float64(task.shift_at)", "pass", "wrong"),
    "zero times infinity": ("product", "task.or_zero != 0 and scale == 0.0", "False", "wrong"),
    "operands not rounded": ("product", "np.float64(np.float32(x)) if narrow != 0 else x", "x",
                             "wrong"),
    "a sum one too many": ("fold", "    if at >= task.outer * task.parts * task.inner:",
                           "    if at > task.outer * task.parts * task.inner:", "out of bounds"),
    "a term too many": ("fold", "range(part, task.length,", "range(part, task.length + 1,",
                        "out of bounds|wrong"),
    "parts that overlap": ("fold", "range(part, task.length, task.parts)",
                           "range(part, task.length)", "wrong"),
}  # fmt: skip


def operand(address, dtype, *strides):
    """A one of these kernels' operands, of up to four axes."""
    return elementwise.Operand(
        address, elementwise.CODES[dtype], *strides, *[0] * (4 - len(strides))
    )


def product_outcome(program, scale, far):
    """Whether ``(a - 0.25) * b * 3 * scale`` is right, `far` blocks from where arrays would begin."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 3, 2)).astype(F32).transpose(2, 1, 0)
    a[0, 0, 0] = np.inf if scale == 0 else 1.0
    b = rng.normal(size=(2, 1, 4))
    memory = ptx.Memory()
    numbers = memory.buffer(np.array([0.25, scale]))
    at = memory.buffer(np.ascontiguousarray(a.transpose(2, 1, 0)))
    at_b = memory.buffer(b)
    out = memory.buffer(np.zeros(a.shape, F32), writable=True, known=False)
    first = far * elementwise.THREADS
    rows = first // 12  # of 12 elements; a block begins with a row if `far` is a multiple of 3
    task = elementwise.Product(
        operand(at - rows * a.strides[0], "float32", *a.strides[:1], 0, *a.strides[1:]),
        operand(at_b - rows * b.strides[0], "float64", b.strides[0], 0, 0, b.strides[2]),
        elementwise.NO_OPERAND,
        operand(out - rows * 48, "float32", 48, 0, 16, 4),
        first + a.size, 1, 3, 4, 1, 1, numbers, numbers + 8, 3.0,
    )  # fmt: skip
    ptx.launch(program, memory, (far + 1, 1), (elementwise.THREADS,), flat(task), only=(far, 1))
    narrow = b.astype(F32).astype(float)
    want = (a.astype(float) - 0.25) * narrow * 3.0 * scale if scale else np.zeros(a.shape)
    return np.array_equal(memory.read(out, a.shape, F32), want.astype(F32))


def fold_outcome(program):
    """Whether sums along the middle axis are right."""
    x = np.random.default_rng(0).normal(size=(2, 11, 3))
    memory = ptx.Memory()
    at, out = memory.buffer(x), memory.buffer(np.zeros((2, 4, 3)), writable=True, known=False)
    task = elementwise.Fold(at, elementwise.CODES["float64"], 8, 2, 11, 3, 4, out)
    ptx.launch(program, memory, (1, 1), (elementwise.THREADS,), flat(task))
    want = np.stack([x[:, part::4].sum(1) for part in range(4)], 1)
    return np.allclose(memory.read(out, want.shape, np.float64), want, rtol=1e-15, atol=1e-15)


def elementwise_outcome(kernel):
    """What running a kernel shows."""
    program = ptx.parse(kernels.elementwise_ptx.__wrapped__(kernel, CAPABILITY))
    try:
        if kernel == "fold":
            return "right" if fold_outcome(program) else "wrong"
        # Infinite where the scale is 0: nothing of it is left.
        cases = [(0.5, 0), (0.0, 0), (0.5, 3 << 28)]
        return "right" if all(product_outcome(program, *case) for case in cases) else "wrong"
    except ptx.Fault as fault:
        return str(fault)


@pytest.mark.parametrize("kernel", ["product", "fold"])
def test_products_and_sums(kernel):
    """Strided, broadcast and missing operands, also beyond 2**31 bytes; sums in parts."""
    assert elementwise_outcome(kernel) == "right"


@pytest.mark.parametrize("name", list(ELEMENTWISE))
def test_mutants_of_products_and_sums(name, monkeypatch):
    """Each seeded bug is reported."""
    kernel, old, new, expected = ELEMENTWISE[name]
    monkeypatch.setattr(kernels, "elementwise", mutant(elementwise, old, new))
    keep_apart(monkeypatch, kernel + old + new)
    shown = elementwise_outcome(kernel)
    assert any(word in shown for word in expected.split("|")), shown
