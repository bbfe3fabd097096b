"""The benchmarks of asv: they are found, they run, and what they say is right."""

import itertools
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gate
import history
import pytest
from benchmarks import arrays, registry
from gating import contest
from gating.contest import Benchmark, Worker
from gating.environments import Environment

import numba_xent as xent

FOLDER = gate.BENCHMARKS
ROOT = FOLDER.parents[1]
ENTRIES = (*registry.STEADY, *(e for e in vars(registry).values() if isinstance(e, registry.Entry)))
HERE = {**os.environ, "PYTHONPATH": str(Path(xent.__file__).parents[1])}


# --- the registry


def test_every_public_function_is_timed() -> None:
    """Those of nn, those of losses that compute, and the gradient of each."""
    public = {f"nn.{name}" for name in xent.nn.__all__ if callable(getattr(xent.nn, name))}
    public |= {f"losses.{name}" for name in xent.losses.__all__ if "entropy" in name}
    public.add("losses.compute_weighted_loss")
    assert set(registry.FUNCTIONS) == public
    for function in public:
        entries = [entry for entry in registry.STEADY if entry.fixed["function"] == function]
        assert {"value", "gradient"} <= set(itertools.chain(*(e.axes["of"] for e in entries)))
        assert function in registry.LATENCY.axes["function"]
        assert function in registry.MEMORY.axes["function"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entries_say_what_calls_understand(entry: registry.Entry) -> None:
    """Axes are known, nothing is said twice, and the gate takes some of them or none."""
    assert set(entry.axes) | set(entry.fixed) <= set(registry.DEFAULTS)
    assert not set(entry.axes) & set(entry.fixed)
    assert all(len(set(words)) == len(words) for words in entry.axes.values())
    combinations = list(entry.combinations())
    assert len({tuple(entry.call(*words).items()) for words in combinations}) == len(combinations)
    taken = [words for words in combinations if entry.in_gate(*words)]
    if entry.gated is None:
        assert taken == []
    else:
        assert taken
        assert set(entry.gated) <= set(entry.axes)
        for axis, words in entry.gated.items():
            assert set(words) <= set(entry.axes[axis])


def test_names_are_unique() -> None:
    """Each entry is a class of asv."""
    names = [entry.name for entry in registry.STEADY]
    assert len(set(names)) == len(names)


def test_shapes() -> None:
    """As the registry writes them."""
    assert arrays.Shape.parse("8 x [21] x 96") == arrays.Shape((8, 21, 96), 1)
    assert arrays.Shape.parse("[3]") == arrays.Shape((3,), 0)
    shape = arrays.Shape.parse("[5] x 2 x 7")
    assert (shape.classes, shape.batch) == (5, (2, 7))


def test_one_hot_labels() -> None:
    """Integer labels have a 1 for each example, wherever the class axis is."""
    for text in ("[5] x 4 x 7", "4 x [5] x 7", "28 x [5]"):
        shape = arrays.Shape.parse(text)
        labels = arrays.dense_labels(shape, "float32", "int8")
        assert labels.dtype.name == "int8"
        assert labels.shape == shape.sizes
        assert (labels.sum(shape.axis) == 1).all()
        assert set(labels.argmax(shape.axis).ravel()) == set(range(5))


# --- as asv sees them


def python(code: str) -> str:
    """Run some code beside the benchmarks."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=FOLDER.parent, env=HERE, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_nothing_is_compiled_at_import() -> None:
    """A benchmark can be listed, and a process forked, before there is a compiler."""
    code = (
        "import sys; before = set(sys.modules);"  # numba-cuda is looked for in every process
        "from asv_runner.discovery import disc_benchmarks as found;"
        "print(len(list(found('benchmarks'))),"
        " [m for m in sys.modules if 'numba' in m and m not in before])"
    )
    count, _, modules = python(code).partition(" ")
    assert int(count) >= 10
    assert modules == "[]\n"


def test_each_has_a_unit_and_a_version() -> None:
    """A version set by hand: else asv forgets all results when a docstring is changed."""
    code = (
        "import json; from asv_runner.discovery import disc_benchmarks as found;"
        "print(json.dumps([[b.name, b.version, b.unit, b.type] for b in found('benchmarks')]))"
    )
    found = json.loads(python(code))
    assert {kind for _, _, _, kind in found} == {"time", "track", "peakmemory"}
    for name, version, unit, kind in found:
        assert version.isdigit(), name
        assert unit in {"seconds", "bytes", "ulp", "functions", "times the probe"}, name
        assert (kind == "time") == (unit == "seconds"), name


def test_asv_accepts_them() -> None:
    """`asv check` finds nothing to object to."""
    done = subprocess.run(
        [sys.executable, "-m", "asv", "check", "--environment=existing:" + sys.executable],
        cwd=FOLDER.parent,
        env=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No problems found" in done.stdout


# --- as they run


@pytest.fixture(name="worker", scope="module")
def _worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process that runs benchmarks on the package as it is here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Environment, "python", property(lambda self: Path(sys.executable)))
        patch.setattr(Environment, "variables", property(lambda self: HERE))
        environment = Environment("here", "", tmp_path_factory.mktemp("here"))
        with contest.workers([environment], FOLDER) as (worker,):
            yield worker


def run(worker: Worker, one: Benchmark) -> float:
    """Run a benchmark once; the seconds or the figure."""
    prepared = worker.ask(prepare=[one.name, one.combination])
    assert prepared.get("skipped") is False, f"{one.label}: {prepared}"
    answer = worker.ask(time=[1, 1]) if one.is_time else worker.ask(figure=True)
    assert "error" not in answer, f"{one.label}: {answer}"
    number = answer["seconds" if one.is_time else "figure"]
    assert number > 0, one.label
    return float(number)


def every(worker: Worker) -> list[Benchmark]:
    """All benchmarks."""
    fields = worker.ask(list=True)["benchmarks"]
    return [Benchmark(**one) for one in fields]


def test_each_class_runs_once(worker: Worker) -> None:
    """One combination of each, the first."""
    ran = [one.name for one in every(worker) if one.combination == 0 and run(worker, one)]
    assert len(ran) == len(set(ran)) >= len(registry.STEADY) + 8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_combinations_run(worker: Worker) -> None:
    """Every benchmark, once."""
    ran = [one.label for one in every(worker) if run(worker, one)]
    assert len(ran) == len(set(ran)) > 300


def figures(worker: Worker, pattern: str) -> dict[str, float]:
    """The figures whose labels contain something."""
    return {one.label: run(worker, one) for one in every(worker) if pattern in one.label}


def test_a_new_gradient_is_what_a_call_allocates(worker: Worker) -> None:
    """The difference between a gradient in an old and in a new array is the array."""
    found = figures(
        worker, "figures.Memory.track_allocated(nn.softmax_cross_entropy_with_logits_v2"
    )
    value, gradient, new = found.values()
    size = 2048 * 1000 * 4
    assert value < gradient < size / 10
    assert abs(new - gradient - size) <= 4096


def test_figures_repeat(worker: Worker) -> None:
    """What is compared without statistics is the same each time."""
    for pattern in ("Layouts.track_allocated(gradient, float32, 2048", "Accuracy", "(float32)"):
        slack = {one.label: one.slack or (0, 0) for one in every(worker)}
        first, second = figures(worker, pattern), figures(worker, pattern)
        assert first
        for label, figure in first.items():
            assert abs(second[label] - figure) <= slack[label][1] / 4, label


def test_accuracy_is_what_the_tests_promise(worker: Worker) -> None:
    """Half a unit for halves, which are rounded once; two and four for the others."""
    found = figures(worker, "Accuracy")
    assert len(found) == 8
    allowed = {"float16": 0.51, "bfloat16": 0.51, "float32": 2, "float64": 4}
    for label, ulp in found.items():
        dtype = label.rpartition(", ")[2].strip(")")
        assert 0.3 < ulp <= allowed[dtype], label


def test_what_a_revision_lacks_is_skipped(worker: Worker, tmp_path: Path) -> None:
    """A revision without a function, or without what lists compiled code, is no failure."""
    package = tmp_path / "numba_xent"
    package.mkdir()
    (package / "__init__.py").write_text("")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
sys.path.insert(0, "gating")
from worker import Session
session = Session(Path("benchmarks").resolve())
listed = session.list()["benchmarks"]
names = dict.fromkeys(one["name"] for one in listed if one["type"] != "peakmemory")
print([n for n in names if not n.startswith("startup") and not session.prepare(n, 0)["skipped"]])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=FOLDER.parent,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


# --- the commands of asv


def test_what_was_not_measured_is_not_listed(tmp_path: Path) -> None:
    """Of benchmarks and of their parameters: asv would draw empty graphs."""
    words = [["'value'", "'gradient'"], ["'float32'", "'float64'"]]
    listed = {name: {"params": words} for name in ("some", "none", "failed")}
    whole = {"params": []}
    listing = tmp_path / "benchmarks.json"
    listing.write_text(json.dumps({**listed, "whole": whole, "version": 2}))
    (tmp_path / "local").mkdir()
    for commit, values in (("a", [1.0, None, math.nan, None]), ("b", [None, 2.0, None, math.nan])):
        found = {"some": [values, words], "failed": [None, words], "whole": [[3.0], []]}
        (tmp_path / "local" / f"{commit}-env.json").write_text(json.dumps({"results": found}))
    history.keep_measured(tmp_path)
    kept = {"some": {"params": [["'value'"], words[1]]}, "whole": whole, "version": 2}
    assert json.loads(listing.read_text()) == kept


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_of_asv(tmp_path: Path) -> None:
    """`run`, `compare`, `continuous` and `publish`, on the last two of three commits."""
    copy = tmp_path / "copy"
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    kept = [name for name in names if "asv_benchmarks/results/" not in name]
    for name in filter(lambda name: (ROOT / name).is_file(), kept):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    home = tmp_path / "home"
    home.mkdir()
    git = ["git", "-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]

    def do(*command: str, status: int = 0) -> str:
        done = subprocess.run(
            command,
            cwd=copy / "asv_benchmarks",
            env={**os.environ, "HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    do(*git, "init", "--quiet", str(copy))
    hashes = []
    for number in range(3):
        (copy / "number.txt").write_text(f"{number}\n")
        do(*git, "-C", str(copy), "add", "--all")
        do(*git, "-C", str(copy), "commit", "--quiet", f"--message={number}")
        hashes.append(do(*git, "rev-parse", "HEAD").strip())
    _, base, head = hashes

    html = tmp_path / "html"
    measure = [sys.executable, "history.py", "--quick", f"--html={html}"]
    bench = "--bench=startup.Import"
    do(*measure, "--last=2", bench)
    index: dict[str, Any] = json.loads((html / "index.json").read_text())
    assert index["project"] == "numba_xent"
    assert list(index["benchmarks"]) == ["startup.Import.timeraw_import"]  # no empty graphs
    assert len(list(html.rglob("startup.Import.timeraw_import.json"))) >= 1
    measured = {json.loads(p.read_text())["commit_hash"] for p in results(copy)}
    assert measured == {base, head}
    assert (html / "index.html").is_file()
    machine = json.loads((copy / "asv_benchmarks/results/local/machine.json").read_text())
    assert machine["machine"] == "local"
    assert {"cpu", "ram", "os", "arch", "num_cpu"} <= set(machine)
    assert machine["os"] == platform.system()

    asv = [sys.executable, "-m", "asv"]
    assert "startup.Import.timeraw_import" in do(*asv, "compare", base, head)
    # Quick measurements are single ones, and say nothing about speed.
    told = do(*asv, "continuous", "--quick", "--factor=1000", "--machine=local", bench, base, head)
    assert "BENCHMARKS NOT SIGNIFICANTLY CHANGED" in told
    do(*asv, "publish")
    assert (copy / "asv_benchmarks/.asv/html/index.html").is_file()
    do(*measure, "--publish-only")


def results(copy: Path) -> list[Path]:
    """The files of results of a copy."""
    found = (copy / "asv_benchmarks" / "results" / "local").glob("*.json")
    return [path for path in found if path.name != "machine.json"]
