"""Compiled code on disk: never stale, never mixed up, and never in the way of a result.

Every test runs a copy of the package in processes of their own, with a cache of their own. What a
process prints is the bits of two results, and how many functions it compiled and loaded.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import python

import numba_xent
from numba_xent._cpu import cache, compile

PACKAGE = Path(numba_xent.__file__).parent
CALLS = """
import numpy as np
from numba.core import event
import numba_xent as xent
logits = np.array([[0.5, 2.0, -1.0], [1.0, 0.0, 3.0]])
with event.install_recorder("numba:run_pass") as recorder:
    for dtype in np.float32, np.float16:
        loss = xent.losses.sparse_softmax_cross_entropy([1, 0], logits.astype(dtype))
        print(float(loss).hex())
from numba_xent._cpu.compile import caches
loaded = sum(cache.loaded for cache in caches())
print(len(caches()) - loaded, loaded, len(recorder.buffer) > 0)
"""
FUNCTIONS = 7
"""What launches, checks labels, solves, and sums, and reads float32, float16 and class numbers."""
READERS = 3
GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
DIGEST = compile.digest()


def turned(content: bytes) -> bytes:
    """Turn one bit in the middle, where there is machine code."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


DAMAGES: tuple[Callable[[bytes], bytes], ...] = (
    lambda whole: b"",
    lambda whole: whole[: len(whole) // 2],
    lambda whole: b"\x80",
    turned,
    lambda whole: b"no pickle",
    lambda whole: whole[:-1],
)


class Outcome(NamedTuple):
    """What a process printed."""

    float32: float
    float16: float
    compiled: int
    loaded: int
    anything_compiled: bool


def outcome(printed: str) -> Outcome:
    """Read what a process printed."""
    single, half, compiled, loaded, anything = printed.split()
    return Outcome(
        float.fromhex(single), float.fromhex(half), int(compiled), int(loaded), anything == "True"
    )


def environment(package: Path, folder: Path | None) -> dict[str, str]:
    """Return the variables under which a copy runs, with a cache or with nowhere to write one.

    Bytecode is not written: Python itself would take old bytecode for a source of the same age.
    As root may write anywhere, what is read-only is a place below a file.
    """
    nowhere = os.path.join(os.devnull, "nowhere")
    return {
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(folder or nowhere),
        "HOME": nowhere,
        "LOCALAPPDATA": nowhere,
        "XDG_CACHE_HOME": nowhere,
    }


def run(package: Path, folder: Path | None, code: str = CALLS, **variables: str) -> Outcome:
    """Run the calls on a copy of the package."""
    return outcome(python(code, **{**environment(package, folder), **variables}))


def copy(folder: Path) -> Path:
    """Copy the package's sources."""
    target = folder / "numba_xent"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


class Warm(NamedTuple):
    """A copy of the package, the cache of its functions, and the results of the first calls."""

    package: Path
    cache: Path
    first: Outcome


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Warm:
    """Make a copy that has run once; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("warm")
    package = copy(folder)
    return Warm(package, folder / "cache", run(package, folder / "cache"))


def test_second_process_compiles_nothing(warm: Warm) -> None:
    """The calls of these tests are cached at all: otherwise they would prove nothing."""
    assert warm.first.compiled == FUNCTIONS
    assert warm.first.anything_compiled
    again = run(warm.package, warm.cache)
    assert again[:2] == warm.first[:2]
    assert again[2:] == (0, FUNCTIONS, False)


# --- stale code

DOUBLED = (
    "_math/cross_entropy.py",
    "    return row.log_sum - (z - row.top)\n",
    "    return 2.0 * (row.log_sum - (z - row.top))\n",
)
CHANGES = [
    ("_math/compensated.py", "return high + low_part(high, low)", "return high + high"),
    ("_math/constants.py", "kind(-0.6931471805599453)", "kind(-0.69)"),
    ("_math/exponential.py", "- _ROOT_HALF_BITS) >>", "+ _ROOT_HALF_BITS) >>"),
    ("_math/half.py", "return from_bits(where(special", "return 2.0 * from_bits(where(special"),
    (
        "_cpu/chunk.py",
        "exp_of_rest(below, exponential))\n        if labels",
        "exp_of_rest(below, exponential * 2.0))\n        if labels",
    ),
    ("_cpu/intrinsics.py", "(args[0], _INT32(0))", "(args[0], _INT32(1))"),
    ("_cpu/examples.py", "return widen(widened(", "return 2.0 * widen(widened("),
    (
        "_cpu/forward.py",
        "tops = _max_of_unit(p, o, u, c, count, work, zero, rows)",
        "tops = _max_of_unit(p, o, u, c, count, work, zero, rows) + np.float32(1)",
    ),
    ("_cpu/kernels.py", "store(result, total)", "store(result, 3.0 * total)"),
    ("_cpu/launch.py", "total = total_of(", "total = 3.0 * total_of("),
    ("_cpu/lanes.py", "rest * scale,", "rest * scale * 2.0,"),
    ("_cpu/memory.py", "+ i * number, value)", "+ i * number, value + value)"),
    ("_cpu/schedule.py", "loss = sparse_loss(z, own)", "loss = sparse_loss(z, own) * 2.0"),
    ("_cpu/vector.py", "builder.select(", "(lambda c, a, b: builder.select(c, b, a))("),
]
"""A change of some formula in each file that is compiled; the text must be in the file."""


def change(package: Path, file: str, old: str, new: str) -> None:
    """Change the contents of a source file, but not its age."""
    path = package / file
    before, text = path.stat(), path.read_text("utf-8")
    assert old in text, f"{file} has changed: choose another text of it to change here"
    path.write_text(text.replace(old, new), "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_changed_formula(warm: Warm, tmp_path: Path) -> None:
    """A change is compiled; what was compiled before stays good for the old sources."""
    file = DOUBLED[0]
    kept, folder = tmp_path / "kept", tmp_path / "cache"
    shutil.copytree(warm.cache, folder)
    shutil.copy2(warm.package / file, kept)
    try:
        change(warm.package, *DOUBLED)
        changed = run(warm.package, folder)
    finally:
        shutil.copy2(kept, warm.package / file)
    assert changed.float32 == 2 * warm.first.float32
    assert changed.float16 == 2 * warm.first.float16
    assert changed.compiled == FUNCTIONS
    back = run(warm.package, folder)
    assert back[:2] == warm.first[:2]
    assert back[2:] == (0, FUNCTIONS, False)


@pytest.mark.slow
@pytest.mark.parametrize("changed", CHANGES, ids=lambda changed: changed[0])
def test_changed_file(warm: Warm, tmp_path: Path, changed: tuple[str, str, str]) -> None:
    """Every file that is compiled, one by one; both copies stand in the same place in turn."""
    kept, folder = tmp_path / "kept", tmp_path / "cache"
    shutil.copytree(warm.cache, folder)
    shutil.copy2(warm.package / changed[0], kept)
    # A processor that converts halves itself does not need the formula.
    variables = GENERIC if changed[0] == "_math/half.py" else {}
    try:
        change(warm.package, *changed)
        got = run(warm.package, folder, **variables)
    finally:
        shutil.copy2(kept, warm.package / changed[0])
    assert got.compiled == FUNCTIONS
    assert got[:2] != warm.first[:2]


def test_changes_can_be_made() -> None:
    """What the slow test is to change is there."""
    for file, old, new in (DOUBLED, *CHANGES):
        assert old in (PACKAGE / file).read_text("utf-8"), file
        assert old != new


def test_every_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte more in any file, or one name less, makes other functions."""
    package = copy(tmp_path)
    monkeypatch.setattr(cache, "files", lambda name: package / name.rpartition(".")[2])
    take = cache.digest.__wrapped__
    assert take() == compile.digest()
    seen = {take()}
    sources = [*(package / "_cpu").glob("*.py"), *(package / "_math").glob("*.py")]
    assert {f"{file.parent.name}/{file.name}" for file in sources} > {c[0] for c in CHANGES}
    for file in sources:
        text = file.read_bytes()
        file.write_bytes(text + b"\n")
        seen.add(take())
        file.write_bytes(text)
        file.rename(file.with_suffix(".txt"))
        seen.add(take())
        file.with_suffix(".txt").rename(file)
    assert len(seen) == 1 + 2 * len(sources)
    assert take() == compile.digest()


def test_other_processors(warm: Warm) -> None:
    """Code for another processor has files of its own: processors may share a home."""
    code = "from numba_xent._cpu.cache import name_for_cache; print(name_for_cache('f'))"
    processors = [
        {},
        GENERIC,
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+sse2"},
    ]
    paths = environment(warm.package, None)
    names = {python(code, **paths, **processor) for processor in processors}
    assert len(names) == len(processors)
    assert python(code, **paths) in names


# --- no place to write

BLOCK = "__pycache__"  # a file of this name keeps Numba from the folder


def test_nowhere_to_write(warm: Warm, tmp_path: Path) -> None:
    """A read-only installation of a user without a home: everything works, uncached."""
    package = copy(tmp_path)
    (package / "_cpu" / BLOCK).touch()
    before = sorted(tmp_path.rglob("*"))
    got = run(package, None)
    assert got[:2] == warm.first[:2]
    assert got[2:] == (0, 0, True)
    assert sorted(tmp_path.rglob("*")) == before


def test_full_disk(warm: Warm, tmp_path: Path) -> None:
    """What cannot be written is computed all the same, and is no obstacle for the next process."""
    pytest.importorskip("resource")
    folder = tmp_path / "cache"
    shutil.copytree(warm.cache, folder)
    for file in folder.rglob("memory.*"):
        file.unlink()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
    present = FUNCTIONS - READERS
    assert run(warm.package, folder, limit + CALLS)[:4] == (*warm.first[:2], READERS, present)
    assert not [*folder.rglob("memory.*.nbc"), *folder.rglob("*.tmp.*")]
    assert run(warm.package, folder)[2:4] == (READERS, present)
    assert run(warm.package, folder)[2:] == (0, FUNCTIONS, False)


def zipped(package: Path, target: Path) -> None:
    """Pack a package into a zip file, with dates that never change."""
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(package.rglob("*.py")):
            info = zipfile.ZipInfo(str(file.relative_to(package.parent)), (2000, 1, 1, 0, 0, 0))
            archive.writestr(info, file.read_bytes())


def test_zip_file(warm: Warm, tmp_path: Path) -> None:
    """Imported from a zip file, whose sources count as others do; cached in the user's folder."""
    archive = tmp_path / "package.zip"
    zipped(warm.package, archive)
    home = {name: str(tmp_path / "home") for name in ("HOME", "LOCALAPPDATA", "XDG_CACHE_HOME")}
    code = CALLS + (
        "from numba_xent._cpu.compile import digest\n"
        f"assert (xent.__file__.startswith({str(archive)!r}), digest()) == (True, {DIGEST!r})"
    )
    assert run(archive / "numba_xent", None, code, **home) == warm.first
    assert run(archive / "numba_xent", None, code, **home)[2:] == (0, FUNCTIONS, False)


def test_zip_file_and_nowhere_to_write(warm: Warm, tmp_path: Path) -> None:
    """Numba would find out only when it writes."""
    archive = tmp_path / "package.zip"
    zipped(warm.package, archive)
    got = run(archive / "numba_xent", None)
    assert got[:2] == warm.first[:2]
    assert got[2:] == (0, 0, True)


# --- several processes, damaged files


@pytest.mark.parametrize("count", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_processes_at_once(warm: Warm, tmp_path: Path, count: int) -> None:
    """All processes find an empty cache; each computes the same bits, and all leave a good one."""
    folder = tmp_path / "cache"
    start = "import sys, numba_xent._cpu.backend; print(flush=True); sys.stdin.readline()\n"
    workers = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", start + CALLS],
            env={**os.environ, **environment(warm.package, folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for _ in range(count)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()  # it has imported everything
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        out, err = worker.communicate(timeout=150)
        assert worker.returncode == 0, err
        assert err == ""
        assert outcome(out)[:2] == warm.first[:2]
    assert run(warm.package, folder) == (*warm.first[:2], 0, FUNCTIONS, False)
    assert len(list(folder.rglob("*.*"))) == 2 * FUNCTIONS  # no temporary file is left


def test_damaged_files(warm: Warm, tmp_path: Path) -> None:
    """Empty, cut off, overwritten, or one bit turned: compiled once more, and mended.

    Every function has one damaged file.
    """
    folder = tmp_path / "cache"
    shutil.copytree(warm.cache, folder)
    indices = sorted(folder.rglob("*.nbi"))
    assert len(indices) == FUNCTIONS
    for i, index in enumerate(indices):
        (code,) = index.parent.glob(f"{index.stem}.*.nbc")
        file = code if i % 2 else index
        file.write_bytes(DAMAGES[i % len(DAMAGES)](file.read_bytes()))
    assert run(warm.package, folder) == warm.first
    assert run(warm.package, folder)[2:] == (0, FUNCTIONS, False)


def test_missing_data_files(warm: Warm, tmp_path: Path) -> None:
    """An index may name files that are gone."""
    folder = tmp_path / "cache"
    shutil.copytree(warm.cache, folder)
    for file in folder.rglob("memory.*.nbc"):
        file.unlink()
    assert run(warm.package, folder)[:4] == (*warm.first[:2], READERS, FUNCTIONS - READERS)


# --- imports


def test_import_compiles_nothing(tmp_path: Path) -> None:
    """Neither the package nor its backend compiles, and the package does not load a compiler."""
    code = """
import sys
import numba_xent
print([name for name in sys.modules if name.split(".")[0] in ("numba", "llvmlite")])
print([name for name in sys.modules if name.startswith("numba_xent._cpu")])
from numba.core import event
with event.install_recorder("numba:run_pass") as passes, \\
        event.install_recorder("numba:llvm_lock") as llvm:
    import numba_xent._cpu.backend
print(passes.buffer, llvm.buffer)
print(numba_xent._cpu.compile.caches())
"""
    assert python(code, NUMBA_CACHE_DIR=str(tmp_path)).split("\n") == [
        "[]",
        "[]",
        "[] []",
        "[]",
        "",
    ]
    assert list(tmp_path.iterdir()) == []


def test_damage_at_every_kilobyte(warm: Warm, tmp_path: Path) -> None:
    """Cut off, or one bit turned over: nothing damaged is loaded, also if it is machine code."""
    code = """
import sys
from pathlib import Path
from numba_xent._cpu import cache, compile
CALLS
def loads(files):
    try:
        overloads = files._load_index()
        return [files._load_data(name) for name in overloads.values()]
    except Exception as error:
        assert type(error) is ValueError and "damaged" in str(error), repr(error)
        return []
damages = 0
for one in compile.caches():
    folder = Path(FOLDER) / one._impl.filename_base
    folder.mkdir(parents=True)
    intact = {file.name: file.read_bytes() for file in one.written()}
    assert len(intact) == 2
    files = cache._CheckedFiles(
        str(folder), one._impl.filename_base, one._impl.locator.get_source_stamp()
    )
    for name, content in intact.items():
        (folder / name).write_bytes(content)
    assert len(loads(files)) == 1
    for name, content in intact.items():
        for place in sorted({*range(0, len(content), 1024), len(content) - 1}):
            for faulty in (
                content[:place],
                content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
            ):
                (folder / name).write_bytes(faulty)
                assert loads(files) == [], (name, place)
                damages += 1
        (folder / name).write_bytes(content)
    assert len(loads(files)) == 1
print(damages)
"""
    code = code.replace("CALLS", CALLS).replace("FOLDER", repr(str(tmp_path)))
    out = python(code, **environment(warm.package, warm.cache))
    assert int(out.split()[-1]) > 200
