"""Environments that are short of something: the calls are right, and nothing is printed."""

import contextlib
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import environment, python
from test_cache import CALLS, FUNCTIONS, Warm, copy, outcome, run, warm

from numba_xent._cpu import cache
from numba_xent._cpu.undisturbed import undisturbed

__all__ = ["warm"]

EVERYTHING = """
import numpy as np
import numba_xent as xent
from calls import FUNCTIONS, RIGHT
for fn in FUNCTIONS:
    print(np.asarray(fn(**RIGHT[fn])).tobytes().hex())
value, gradient = xent.value_and_grad(xent.losses.softmax_cross_entropy)(
    np.eye(300, 300, dtype=np.float32), np.tile(np.arange(300, dtype=np.float32), (300, 1))
)
print(value, np.abs(gradient).sum())
"""


@pytest.fixture(scope="module")
def expected() -> str:
    """What every function returns where nothing is amiss."""
    return python(EVERYTHING)


@pytest.mark.parametrize(
    "variables",
    [
        {"NUMBA_DISABLE_JIT": "1"},
        {"NUMBA_NUM_THREADS": "1"},
        {"NUMBA_THREADING_LAYER": "safe"},
        {"NUMBA_DEVELOPER_MODE": "1"},
        {"NUMBA_CAPTURED_ERRORS": "new_style"},
        {"NUMBA_DISABLE_PERFORMANCE_WARNINGS": "1"},
        {"PYTHONOPTIMIZE": "2"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONUTF8": "0", "LC_ALL": "C"},
        {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"},
        {"HOME": "", "USER": "", "LOGNAME": ""},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_variables(expected: str, variables: dict[str, str]) -> None:
    """Settings that other code may need."""
    quiet = "NUMBA_THREADING_LAYER" not in variables  # "safe" is TBB, which may be missing
    assert python(EVERYTHING, quiet=quiet, **variables) == expected


def test_jit_is_disabled_for_others_only(tmp_path: Path) -> None:
    """NUMBA_DISABLE_JIT is for the caller's functions; those of the library are compiled for it."""
    code = """
import numba
import numba_xent as xent
print(float(xent.losses.sparse_softmax_cross_entropy([1], [[0.0, 0.0]])))
f = lambda: 1
print(numba.config.DISABLE_JIT, numba.njit(f) is f)
"""
    out = python(code, NUMBA_DISABLE_JIT="1", NUMBA_CACHE_DIR=str(tmp_path))
    assert out.split() == ["0.6931471824645996", "1", "True"]
    assert list(tmp_path.rglob("*.nbc"))


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_garbage_is_collected_again(enabled: bool, fails: bool) -> None:
    """No garbage is collected while something is compiled; then it is as the caller had it."""
    seen = []

    def work() -> None:
        seen.append(gc.isenabled())
        if fails:
            raise ZeroDivisionError

    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
            undisturbed(work)
        assert seen == [False]
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_bounds_are_checked_in_code_of_its_own() -> None:
    """Code that checks bounds, or is not optimised, has other names in the cache."""
    code = "from numba_xent._cpu.cache import name_for_cache\nprint(name_for_cache('f'))"
    names = {
        python(code, **variables)
        for variables in ({}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_OPT": "1"})
    }
    assert len(names) == 3


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_tiny_disk(warm: Warm, tmp_path: Path) -> None:
    """A cache folder of 1 MB that is nearly full: what fits is kept, and all is computed."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this container may not mount")
    try:
        (folder / "other").write_bytes(bytes(1_000_000))
        for _ in range(2):
            got = run(warm.package, folder)
            assert got[:2] == warm.first[:2]
            assert got.compiled > 0
        assert not list(folder.rglob("*.tmp.*"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_read_only_installation(warm: Warm, tmp_path: Path) -> None:
    """Really read-only: mounted so."""
    package = copy(tmp_path / "site")
    folder = package.parent
    bind = ["mount", "--bind", str(folder), str(folder)]
    if subprocess.run(bind, capture_output=True, check=False).returncode != 0:
        pytest.skip("this container may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        got = run(package, None)
        assert got[:2] == warm.first[:2]
        assert got[2:] == (0, 0, True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_processes_on_a_cold_cache(warm: Warm, tmp_path: Path) -> None:
    """Processes that start at once: each is right, none prints, and the cache is whole."""
    folder = tmp_path / "cache"
    workers = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", CALLS],
            env=environment(PYTHONPATH=str(warm.package.parent), NUMBA_CACHE_DIR=str(folder)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for _ in range(20)
    ]
    for worker in workers:
        out, err = worker.communicate(timeout=800)
        assert (worker.returncode, err) == (0, "")
        assert outcome(out)[:2] == warm.first[:2]
    assert run(warm.package, folder) == (*warm.first[:2], 0, FUNCTIONS, False)


# --- a share of a processor


def set_quota(folder: Path, period: int, quota: int) -> None:
    """Let processes of a control group run for some of each period, in microseconds."""
    if (folder / "cpu.max").exists():
        (folder / "cpu.max").write_text(f"{quota} {period}")
    else:
        (folder / "cpu.cfs_period_us").write_text(str(period))
        (folder / "cpu.cfs_quota_us").write_text(str(quota))


@pytest.fixture
def half_a_processor() -> Iterator[Path]:
    """A control group, of either version, whose processes may use half a processor."""
    root = Path("/sys/fs/cgroup")
    parent = root if (root / "cgroup.controllers").exists() else root / "cpu"
    folder = parent / f"numba_xent_{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    try:
        set_quota(folder, 20_000, 10_000)
    except OSError as error:
        folder.rmdir()
        pytest.skip(f"the share of a control group cannot be set here: {error}")
    yield folder
    folder.rmdir()


def test_half_a_processor(expected: str, half_a_processor: Path) -> None:
    """As containers are limited: threads are stopped and go on in the middle of kernels."""
    code = f"""
import os
from pathlib import Path
folder = Path({str(half_a_processor)!r})
(folder / "cgroup.procs").write_text(str(os.getpid()))
{EVERYTHING}
def stopped():
    words = (folder / "cpu.stat").read_text().split()
    return int(words[words.index("nr_throttled") + 1])
labels, logits = np.arange(3000), np.zeros((3000, 3000), np.float32)
both = xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)
want = both(labels, logits)
before = stopped()
while stopped() < before + 3:
    got = both(labels, logits)
    assert got[0] == want[0] and np.array_equal(got[1], want[1])
"""
    assert python(code, quiet=True) == expected


# --- a process that dies, and a disk that fails, while the cache is written

TINY = """
import os, signal, sys
from numba.core import caching
from numba_xent._cpu.compile import caches, compile_function

def faulty(stop, part, kill):
    # The cache's `open`: at the write number `stop`, so much of it is written, and then...
    writes = [0]
    def fail():
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(28, "No space left on device")
    class File:
        def __init__(self, *args):
            self.file = open(*args)
        def __enter__(self):
            return self
        def __exit__(self, *error):
            self.file.close()
        def write(self, data):
            writes[0] += 1
            if writes[0] == stop:
                self.file.write(data[: int(part * len(data))])
                self.file.flush()
                fail()
            return self.file.write(data)
        def __getattr__(self, name):
            return getattr(self.file, name)
    def own_open(path, mode="r", *args):
        return File(path, mode, *args) if "w" in mode else open(path, mode, *args)
    caching.open = own_open
    replace = os.replace
    def own_replace(*args):
        writes[0] += 1
        if writes[0] == stop:
            fail()
        replace(*args)
    caching.os = type("os", (), {**vars(os), "replace": staticmethod(own_replace)})

def function(x):
    return 2 * x + 1
if len(sys.argv) > 1:
    faulty(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "kill")
kernel = compile_function(function, "tiny")
print(kernel(20), [cache.loaded for cache in caches()])
"""
FAULTS = [(stop, part) for stop in range(1, 7) for part in (0.0, 0.5, 1.0)]


def tiny(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Compile and call a small function, with a fault perhaps: the exit status and the output."""
    script = folder / "tiny.py"
    script.write_text(TINY, "utf-8")
    done = subprocess.run(
        [sys.executable, "-P", str(script), *arguments],
        env=environment(NUMBA_CACHE_DIR=str(folder / "cache")),
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize("how", ["kill", "full"])
@pytest.mark.parametrize(
    "faults",
    [FAULTS[4::9], pytest.param(FAULTS, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
    ids=["some", "all"],
)
def test_faults_while_the_cache_is_written(
    tmp_path: Path, how: str, faults: list[tuple[int, float]]
) -> None:
    """Whatever has been written so far, the next process is right, and mends the cache."""
    met = 0
    for stop, part in faults:
        folder = tmp_path / f"{stop}-{part}"
        folder.mkdir()
        status, out = tiny(folder, str(stop), str(part), how)
        if how == "kill":
            assert (status, out) in ((-9, []), (0, ["41", "[False]"]))
            met += status == -9
        else:
            assert (status, out) == (0, ["41", "[False]"])
            met += 1
        status, out = tiny(folder)
        assert (status, out[0]) == (0, "41")
        assert tiny(folder) == (0, ["41", "[True]"])
    assert met >= len(faults) * 2 // 3


def test_names_of_caches_are_checked() -> None:
    """The faults above are put where this Numba writes."""
    assert hasattr(cache.IndexDataCacheFile, "_open_for_write")
