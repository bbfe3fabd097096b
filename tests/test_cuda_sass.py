"""What the assembler makes of the CUDA kernels, for four generations of GPUs.

Nothing spills or lives in local memory, contiguous rows move 16 bytes at a time, and registers and
instructions stay within limits. The assembler is the one that ``cuda.core`` brings; the
disassembler is in the extra ``test``.
"""

import functools

import pytest

pytest.importorskip("numba_cuda", reason="the CUDA kernels are compiled by numba-cuda")

import sass

from numba_xent._cuda.device import SIZES
from numba_xent._cuda.kernels import Choice
from numba_xent._cuda.plan import _columns_shape, most_elements

if sass.why_not():
    pytest.skip(sass.why_not(), allow_module_level=True)

QUICK = ("sm_90", "sm_120")
REGISTERS = 128
"""Of a thread at most: a multiprocessor has 65536, enough for 512 threads or more."""
POLYNOMIAL = 1.65
"""How much more code float64 may have: its exponentials are polynomials, not one instruction."""
MORE = 1.4
"""How much more code there may be for smoothed labels, and for gradients by labels."""
DTYPES = ("float32", "bfloat16", "float16", "float64")
KINDS = (
    ("sparse", False, False),
    ("dense", False, False),
    ("dense", True, False),
    ("dense", False, True),
)
"""Labels, whether they are smoothed, and whether there is a gradient by them."""


def choices(arch):
    """Each family of kernels with each dtype and kind of labels, as large as the planner makes it.

    With what is allowed: instructions in the code for each logit that a thread holds.
    """
    clusters = arch in sass.WITH_CLUSTERS
    for dtype in DTYPES:
        lanes = 16 // SIZES[dtype]
        for kind, smooth, label_gradient in KINDS:
            labels = "sparse" if kind == "sparse" else dtype
            most = functools.partial(
                most_elements,
                dtype=dtype,
                labels=labels,
                label_gradient=label_gradient,
                smooth=smooth,
                clusters=clusters,
            )
            make = functools.partial(
                Choice,
                dtype=dtype,
                labels=labels,
                gradient=True,
                label_gradient=label_gradient,
                vectors=True,
                smooth=smooth,
            )
            rows = most("rows")
            yield make("rows", width=32, threads=128, elements=rows), 150
            yield make("rows", width=512, threads=512, elements=rows), 150
            if clusters:
                yield make("rows", width=4096, threads=512, elements=rows), 170
            tile = max(lanes, min(most("online"), 16))
            yield make("online", width=512, threads=512, elements=tile, once=False), 250
            yield make("finish_split", width=512, threads=512, elements=tile, once=False), 250
            tile = max(lanes, min(most("columns"), 16))
            yield make("columns", width=16, threads=128, elements=tile), 250
            # More classes than are held: as the planner has it.
            width, elements, once = _columns_shape(
                lanes, 10**6, most("columns"), labels != "sparse"
            )
            yield make("columns", width=width, threads=8 * width, elements=elements, once=once), 250


def does_more(choice):
    """Whether labels are smoothed, or have a gradient."""
    return choice.smooth or choice.label_gradient


def marks(choice, arch):
    """What runs always; the rest takes minutes."""
    plain = choice.dtype == "float32" and choice.once and not does_more(choice)
    quick = plain and arch in QUICK
    return [pytest.mark.slow] * (not quick)


CASES = [
    pytest.param(choice, limit, arch, id=f"{choice.name}-{arch}", marks=marks(choice, arch))
    for arch in sass.ARCHITECTURES
    for choice, limit in choices(arch)
]


@pytest.mark.parametrize(("choice", "limit", "arch"), CASES)
def test_kernels(choice, limit, arch):
    """No spills, no local memory, vectors of 16 bytes, registers within their limit."""
    found = sass.report(choice, arch)
    assert found.local == 0
    assert found.stack == 0
    assert found.registers <= (REGISTERS if not choice.wide else 2 * REGISTERS)
    vectors = choice.elements * SIZES[choice.dtype] // 16
    assert found.vector_loads >= vectors * (1 if choice.labels == "sparse" else 2)
    assert found.vector_stores >= vectors
    more = (POLYNOMIAL if choice.dtype == "float64" else 1) * (MORE if does_more(choice) else 1)
    assert found.instructions <= limit * more * max(16, choice.elements)


@pytest.mark.parametrize("arch", sass.ARCHITECTURES)
@pytest.mark.parametrize("name", ["product", "fold"])
def test_products_and_sums(name, arch):
    """No local memory; they are made of one thread's numbers, and there is room for all threads."""
    found = sass.report_elementwise(name, arch)
    assert found.local == 0
    assert found.stack == 0
    assert found.registers <= REGISTERS // 2


@pytest.mark.parametrize("arch", sass.ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@pytest.mark.parametrize("name", ["partial_sums", "total_sum"])
def test_reductions(name, dtype, arch):
    """The same for the kernels that add losses."""
    found = sass.report_sum(name, dtype, arch)
    assert found.local == 0
    assert found.stack == 0
    assert found.registers <= REGISTERS // 2


def test_spills_are_seen():
    """A kernel that needs more registers than a thread can have is caught."""
    found = sass.report(Choice("rows", "float32", "float32", True, True, 32, 1024, 32), "sm_90")
    assert found.local > 0 or found.stack > 0
