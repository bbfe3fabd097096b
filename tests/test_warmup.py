"""``python -m numba_xent warmup``: after it, no first call compiles anything."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from numba.core.caching import UserProvidedCacheLocator
from processes import python

import numba_xent
from numba_xent.__main__ import main
from numba_xent._cpu import kernels
from numba_xent._cpu.cache import name_for_cache

PACKAGE = Path(numba_xent.__file__).parent
REPORT = re.compile(
    r"Compiled (\d+) functions in \d+\.\d s: (\d+) files, (\d+\.\d) MB\. "
    r"(\d+) functions were there already\.\nFolder: (.*)\n"
)
CALLS = """
import itertools
import ml_dtypes
import numpy as np
from numba.core import event
import numba_xent as xent
V2 = xent.nn.softmax_cross_entropy_with_logits_v2
SPARSE = xent.nn.sparse_softmax_cross_entropy_with_logits
dtypes = [np.dtype(getattr(ml_dtypes, name, name)) for name in NAMES]
with event.install_recorder("numba:run_pass") as recorder:
    for dtype, classes, examples in itertools.product(dtypes, (3, 200), (2, 2000)):
        logits = np.ones((examples, classes), dtype)
        for order in "CF":
            z = np.asarray(logits, order=order)
            xent.value_and_grad(V2, wrt=("logits", "labels"))(labels=z, logits=z)
            for labels in bool, np.int8, np.uint8, np.int32, np.int64, np.float32, np.float64:
                V2(labels=z.astype(labels), logits=z)
            for index in np.int32, np.int64:
                labels = np.zeros(examples, index)
                SPARSE(labels=labels, logits=z)
                xent.value_and_grad(xent.losses.sparse_softmax_cross_entropy)(labels, z)
            xent.value_and_grad(xent.losses.softmax_cross_entropy, wrt=("logits", "weights"))(
                z, z, weights=np.ones(examples, dtype), label_smoothing=0.1
            )
from numba_xent._cpu.compile import caches
print(len(recorder.buffer), [str(cache) for cache in caches() if not cache.loaded], len(caches()))
"""


class Report(NamedTuple):
    """What the command says."""

    compiled: int
    files: int
    megabytes: float
    present: int
    folder: str


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "numba_xent", "warmup", *arguments],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )


def warmup(*arguments: str, **variables: str) -> Report:
    """Run the command and read what it says."""
    done = command(*arguments, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = REPORT.fullmatch(done.stdout)
    assert said is not None, done.stdout
    compiled, files, megabytes, present, folder = said.groups()
    return Report(int(compiled), int(files), float(megabytes), int(present), folder)


@pytest.fixture(scope="module")
def warm() -> Report:
    """Warm the cache that the tests run with up; that takes a minute if it is empty."""
    return warmup("--dtypes", "float16,bfloat16,float32")


@pytest.fixture
def cache(warm: Report, tmp_path: Path) -> Path:
    """Copy what is good now from the warm cache: a value for NUMBA_CACHE_DIR, to be spoilt."""
    folder = tmp_path / UserProvidedCacheLocator.get_suitable_cache_subpath(kernels.__file__)
    folder.mkdir()
    for file in Path(warm.folder).glob(f"*{name_for_cache('')}-*.nb[ic]"):  # no unfinished ones
        shutil.copy2(file, folder)
    return tmp_path


ALL_NAMES = pytest.mark.parametrize(
    "names",
    [("float16", "bfloat16", "float32"), pytest.param(("float64",), marks=pytest.mark.slow)],
)


@ALL_NAMES
@pytest.mark.timeout(600)
def test_no_call_compiles(names: tuple[str, ...]) -> None:
    """Small and large, along rows and columns, with every kind of labels: all is on disk."""
    warmup("--dtypes", ",".join(names))
    printed = python(f"NAMES = {names}\n{CALLS}", NUMBA_NUM_THREADS="2").split()
    assert printed[:2] == ["0", "[]"]
    assert int(printed[2]) > len(names)


@ALL_NAMES
@pytest.mark.timeout(600)
def test_no_call_needs_more(names: tuple[str, ...]) -> None:
    """The same, whatever was on disk before: in the command's own process nothing is missing."""
    code = f"""
from numba_xent.__main__ import main
from numba_xent._cpu.cache import DiskCache
assert main(["warmup", "--dtypes", "{",".join(names)}"]) == 0
looked_up = []
load = DiskCache.load_overload
DiskCache.load_overload = lambda self, *args: looked_up.append(self) or load(self, *args)
NAMES = {names}
{CALLS}
print(looked_up)
"""
    assert python(code, NUMBA_NUM_THREADS="2", timeout=280).splitlines()[-1] == "[]"


def test_second_time(warm: Report) -> None:
    """Everything is there; another dtype that is computed alike shares the kernels."""
    again = warmup("--dtypes", "float16,bfloat16,float32")
    assert again == (0, 0, 0.0, warm.compiled + warm.present, warm.folder)
    assert 16 < warmup("--dtypes", "float16").present < again.present
    assert Path(again.folder).is_dir()


def test_what_is_missing_is_compiled(cache: Path) -> None:
    """The report counts what is new and what is not, and names the folder."""
    folder = next(cache.iterdir())
    # Other tests may have been writing functions of their own when this folder was copied.
    first = warmup("--dtypes", "float32", NUMBA_CACHE_DIR=str(cache))
    before = {file.name for file in folder.iterdir()}
    lost = sorted(folder.glob("memory.read_float32_as_float32*"))
    assert len(lost) == 2
    size = sum(file.stat().st_size for file in lost) / 1e6
    for file in lost:
        file.unlink()
    report = warmup("--dtypes", "float32", NUMBA_CACHE_DIR=str(cache))
    assert report[:2] == (1, 2)
    assert report.megabytes == pytest.approx(size, abs=0.06)
    assert report.present == first.compiled + first.present - 1
    assert report.folder == str(folder)
    assert {file.name for file in folder.iterdir()} == before


def test_nowhere_to_write(tmp_path: Path) -> None:
    """Nothing is compiled for nothing: the user is told what to do, at once."""
    package = tmp_path / "numba_xent"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "_cpu" / "__pycache__").touch()  # a file keeps even root from a folder's place
    nowhere = os.path.join(os.devnull, "nowhere")
    homes = dict.fromkeys(("HOME", "LOCALAPPDATA", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"), nowhere)
    done = command(PYTHONPATH=str(tmp_path), **homes)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "python -m numba_xent warmup: error: there is no folder that compiled code can be written "
        "to; NUMBA_CACHE_DIR can name one\n"
    )


def test_full_disk(cache: Path) -> None:
    """A file that cannot be written is an error, which says why."""
    pytest.importorskip("resource")
    for file in cache.rglob("memory.read_float32_as_float32*"):
        file.unlink()
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "from numba_xent.__main__ import main\n"
        "sys.stderr = sys.stdout\n"
        "print(main(['warmup', '--dtypes', 'float32']))"
    )
    message, status = python(code, NUMBA_CACHE_DIR=str(cache)).splitlines()
    assert re.search(r"error: 1 of \d+ functions cannot be written: .*File too large", message)
    assert status == "2"


def test_bfloat16_needs_ml_dtypes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy alone does not know the dtype."""
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert main(["warmup", "--dtypes", "bfloat16"]) == 2
    assert capsys.readouterr().err.endswith("error: bfloat16 needs the package ml_dtypes\n")


@pytest.mark.parametrize("names", ["", "float8", "float32,", "int32", "float32, float64"])
def test_invalid_dtypes(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the one that is wrong and all that are right."""
    with pytest.raises(SystemExit) as exit_:
        main(["warmup", "--dtypes", names])
    assert exit_.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "argument --dtypes: " in message
    assert message.endswith("is not one of float16, bfloat16, float32, float64")
