"""Other processors: older ones of this architecture are run, ARM's are compiled for.

The code for an older processor runs on a newer one. x86-64-v2 has neither AVX nor a fused
multiply-add: LLVM calls the C library's instead, which must be found and give the same bits.
"""

import os
import platform
from pathlib import Path

import pytest
from processes import python

import numba_xent

V2 = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+sahf"
V3 = f"{V2},+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
PROCESSORS = {"haswell": V3, "x86-64-v2": V2}
"""Names and features; without the features Numba adds all those of the machine it runs on."""

PATHS = [str(Path(numba_xent.__file__).parents[1]), str(Path(__file__).parent)]
BITS = """
import hashlib
import numpy as np
import numba_xent as xent
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for dtype, n in (np.float32, 7), (np.float32, 300), (np.float64, 7), (np.float64, 300):
    logits = (rng.standard_normal((50, n)) * 4).astype(dtype)
    labels = rng.dirichlet(np.ones(n), 50).astype(dtype)
    fn = xent.value_and_grad(xent.nn.softmax_cross_entropy_with_logits_v2)
    for result in fn(labels=labels, logits=logits):
        digest.update(result.tobytes())
print(digest.hexdigest())
"""

needs_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the processors are x86-64"
)


def features() -> set[str]:
    """What this machine has."""
    import llvmlite.binding as llvm  # noqa: PLC0415 - where it is needed only

    return {name for name, there in llvm.get_host_cpu_features().items() if there}


def compiled_for(name: str) -> dict[str, str]:
    """Return the variables that make Numba compile for a processor."""
    return {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": PROCESSORS[name]}


@needs_x86
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PROCESSORS)
def test_older_processor(name: str) -> None:
    """A sample of all tests with their own tolerances; compiling it takes most of the time."""
    if not {feature[1:] for feature in PROCESSORS[name].split(",")} <= features():
        pytest.skip(f"this machine is older than {name}")
    code = "import portable_sample; portable_sample.main()"
    printed = python(
        code, timeout=840, PYTHONPATH=os.pathsep.join(PATHS), **compiled_for(name)
    ).splitlines()
    total = int(printed[-1].split()[0])
    assert printed[-1] == f"{total} checks, 0 failed, 0 kernels not met", "\n".join(printed)
    assert total > 500


@needs_x86
@pytest.mark.timeout(900)
def test_same_bits() -> None:
    """No vector width, no fusion of the compiler's own and no library changes a bit."""
    if "fma" not in features():
        pytest.skip("this machine is older than haswell")
    here = python(BITS, timeout=300)
    for name in PROCESSORS:
        assert python(BITS, timeout=300, **compiled_for(name)) == here, name


ARM = """
import re
import llvmlite.binding as llvm
import numpy as np
import numba_xent as xent
from numba_xent._cpu.compile import callbacks

logits = np.ones((2, 99), np.float32)
xent.value_and_grad(xent.nn.softmax_cross_entropy_with_logits_v2)(labels=logits, logits=logits)
xent.nn.sparse_softmax_cross_entropy_with_logits(labels=np.zeros(2, int), logits=np.ones((2, 3)))
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
for name in "rows_dense_gradient_float32", "columns_sparse_value_float64":
    code = callbacks[name].inspect_llvm()
    print(name, "aligned" if "alignstack=64" in code else "not aligned")
    code = re.sub(r"(?m)^target .*\\n", "", code)
    # What counts references to arrays has become an operation of x86 by now.
    code = code.replace("llvm.x86.atomic.sub.cc.i64", "drop_reference").replace("immarg", "")
    for triple in TRIPLES:
        machine = llvm.Target.from_triple(triple).create_target_machine(opt=3)
        module = llvm.parse_assembly(code)
        module.triple = triple
        module.data_layout = str(machine.target_data)
        module.verify()
        text = machine.emit_assembly(module)
        fused = len(re.findall(r"\\bfmla(?:\\.2d|\\.4s|\\tv)", text))
        called = sorted(set(re.findall(r"\\bbl?\\s+_?(fmaf?|fmaximumf?|exp\\w*|log\\w*)\\b", text)))
        print(triple, len(machine.emit_object(module)) > 10_000, fused > 50, called)
"""
TRIPLES = ("aarch64-unknown-linux-gnu", "arm64-apple-darwin", "aarch64-pc-windows-msvc")


def has_target(triple: str) -> bool:
    """Whether LLVM was built with code generation for a processor."""
    import llvmlite.binding as llvm  # noqa: PLC0415 - where it is needed only

    llvm.initialize_all_targets()
    try:
        llvm.Target.from_triple(triple)
    except RuntimeError:
        return False
    return True


@needs_x86
def test_arm_can_be_compiled_for(tmp_path: Path) -> None:
    """Kernels become object files with vector instructions of their own, and call no libm.

    Their stack is aligned: what does not fit the registers must not lie across two cache lines.

    The cache is empty, because functions that come from it have lost their LLVM code.
    """
    if not all(map(has_target, TRIPLES)):
        pytest.skip("this llvmlite knows no ARM processors")
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    printed = python(
        f"TRIPLES = {TRIPLES}\n{ARM}", NUMBA_CACHE_DIR=str(tmp_path), **generic
    ).splitlines()
    compiled = [f"{triple} True True []" for triple in TRIPLES]
    dense, sparse = "rows_dense_gradient_float32", "columns_sparse_value_float64"
    assert printed == [f"{dense} aligned", *compiled, f"{sparse} aligned", *compiled]
