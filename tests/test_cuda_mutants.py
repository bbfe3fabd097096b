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

from numba_xent._cuda import cache, kernels

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
    "half a shuffle mask": ("states", "x = x + cuda.shfl_xor_sync(FULL_WARP, x, 1)",
                            "x = x + cuda.shfl_xor_sync(0xFFFF, x, 1)", SMALL, "mask"),
    "a step of a reduction dropped": ("states", "if STEP_1:\n        x = x +",
                                      "if not STEP_1:\n        x = x +", SMALL, "wrong"),
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
    "sums of another warp": ("columns", "place = warp * (LANES * COLUMNS) + column",
                             "place = column", dense_columns, "race|wrong"),
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


def outcome(problem, programs):
    """What running a problem shows: a fault's message, "wrong" or "right"."""
    labels, logits, options = problem
    options = dict(options)
    if options.pop("poison", False):
        logits[1, 30] = np.nan
    axis = options.pop("axis", -1)
    dense = labels.ndim == logits.ndim
    good = labels if dense else np.where((labels >= 0) & (labels < logits.shape[-1]), labels, 0)
    answer = oracle.dense(good, logits, axis) if dense else oracle.sparse(good, logits)
    try:
        found = solve(labels, logits.copy(), axis, programs=programs, **options)
    except ptx.Fault as fault:
        return str(fault)
    wanted = answer.grads["logits"]
    if not dense:
        wanted = np.where((good == labels)[:, None], wanted, np.nan)
        answer.value = np.where(good == labels, answer.value, np.nan)
    close = np.allclose(found.losses, answer.value.astype(float), rtol=1e-5, equal_nan=True)
    close &= np.allclose(found.grads["logits"], wanted.astype(float), atol=1e-6, equal_nan=True)
    return "right" if close else "wrong"


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MUTANTS]
)
def test_mutants(name, monkeypatch):
    """Each seeded bug is reported, and the original is not."""
    where, old, new, problem, expected = MUTANTS[name]
    original = {"rows": kernels._MODULES["rows"], "columns": kernels._MODULES["columns"],
                "split": kernels._MODULES["split"]}.get(where) or getattr(kernels, where)  # fmt: skip
    changed = mutant(original, old, new)
    digest = hashlib.sha256(f"{where}{old}{new}".encode()).hexdigest()[:12]
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
    monkeypatch.setattr(kernels, "compiled", {})
    monkeypatch.setattr(
        kernels, "kept", lambda key, make: cache.kept(f"mutant_{digest}_{key}", make)
    )
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
