"""The gate that compares the speed of two revisions: its arithmetic, its parts, and all of it.

Most tests have benchmarks of their own, whose times and figures are made up. The slow one is the
proof: a copy of the repository with a commit that slows a kernel by 30 %, one that copies the
logits, and one that changes nothing.
"""

import functools
import itertools
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gate
import numpy as np
import pytest
from gating import GateError, contest, environments, report, verdict
from gating.contest import Benchmark, Effort, Failure
from gating.environments import Environment
from gating.verdict import Row, Verdict

ROOT = Path(gate.__file__).resolve().parents[1]
FACTOR = 1.15


# --- verdicts


def test_interval_is_that_of_the_binomial_distribution() -> None:
    """The ends are order statistics; too few values have none."""
    values = np.random.default_rng(0).permutation(100).tolist()
    assert verdict.interval(values[:10], 0.999) == (-math.inf, math.inf)
    assert verdict.interval(list(range(11)), 0.999) == (0, 10)
    # A table of sign tests: for 20 values and 95 %, the 6th from either end.
    assert verdict.interval(list(range(20)), 0.95) == (5, 14)
    assert verdict.interval(values, 0.95) == (39, 60)


def test_interval_contains_the_median_as_often_as_it_says() -> None:
    """In samples of a skewed distribution, as often as the binomial distribution of 30 says."""
    rng = np.random.default_rng(1)
    median = math.log(2)
    inside = [
        lower <= median <= upper
        for lower, upper in (verdict.interval(rng.exponential(size=30), 0.9) for _ in range(2000))
    ]
    exact = 1 - 2 * sum(math.comb(30, k) for k in range(11)) / 2**30
    assert exact >= 0.9
    assert abs(np.mean(inside) - exact) < 0.02  # three standard deviations


def a_time(label: str = "steady.A.time_call(x)") -> Benchmark:
    """Return something to time."""
    return Benchmark(label.partition("(")[0], 0, label, "time", "seconds", None, True)


def a_figure(slack: tuple[float, float] = (0.0, 10.0)) -> Benchmark:
    """Return something that is tracked."""
    return Benchmark("figures.B.track_b", 0, "figures.B.track_b", "track", "bytes", slack, True)


def noisy(
    ratio: float, rng: np.random.Generator, launches: int = 6, pairs: int = 25, layout: float = 0.05
) -> list[list[tuple[float, float]]]:
    """Turns on a machine whose speed swings by 2, with spikes, and with luck in each launch."""
    found = []
    for _ in range(launches):
        speed = 2 ** np.clip(np.cumsum(rng.normal(0, 0.2, pairs)), -0.5, 0.5)
        each = 0.001 * speed[:, None] * rng.lognormal(0, 0.05, (pairs, 2))
        each *= np.where(rng.random((pairs, 2)) < 0.1, 10, 1)
        each[:, 1] *= ratio * rng.lognormal(0, layout)
        found.append([(float(a), float(b)) for a, b in each])
    return found


def test_noise_is_no_regression() -> None:
    """None of 300 times of equal code is refused, however the machine swings."""
    rng = np.random.default_rng(2)
    rows = [verdict.judge_time(a_time(), noisy(1.0, rng), FACTOR) for _ in range(300)]
    assert {row.verdict for row in rows} == {Verdict.SAME}


def test_a_regression_is_one_in_spite_of_noise() -> None:
    """Each of 300 times that are 30 % longer is refused, and taken for 30 %."""
    rng = np.random.default_rng(3)
    rows = [verdict.judge_time(a_time(), noisy(1.3, rng), FACTOR) for _ in range(300)]
    assert {row.verdict for row in rows} == {Verdict.SLOWER}
    assert 1.28 < np.median([row.ratio for row in rows]) < 1.32


def test_what_got_faster() -> None:
    """It is told, and passes."""
    row = verdict.judge_time(a_time(), noisy(0.7, np.random.default_rng(4)), FACTOR)
    assert row.verdict is Verdict.FASTER
    assert not row.verdict.is_refused


def turns(*ratios: float, pairs: int = 20) -> list[list[tuple[float, float]]]:
    """Launches of which each has one ratio, but for some scatter."""
    return [[(1.0, ratio * (1 + k / 1000)) for k in range(pairs)] for ratio in ratios]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (turns(1.2, 1.2, 1.2), Verdict.SLOWER),
        (turns(1.1, 1.1, 1.1), Verdict.SAME),  # within the factor
        (turns(*[1.5] * 5, 0.95), Verdict.SAME),  # not in every launch
        (turns(1.2, pairs=5), Verdict.SAME),  # too few to be sure
        (turns(0.8, 0.8, 0.8), Verdict.FASTER),
        (turns(*[0.8] * 5, 1.01), Verdict.SAME),
    ],
)
def test_all_conditions_must_hold(outcome: Any, expected: Verdict) -> None:
    """The factor, the interval and every launch."""
    assert verdict.judge_time(a_time(), outcome, FACTOR).verdict is expected


def test_numbers_of_a_row() -> None:
    """Medians of both sides, and of the ratios of neighbours, not the ratio of medians."""
    outcome = [[(1.0, 2.0), (3.0, 3.0), (8.0, 4.0)]]
    row = verdict.judge_time(a_time(), outcome, FACTOR)
    assert (row.base, row.head, row.ratio) == (3.0, 3.0, 1.0)


@pytest.mark.parametrize(
    ("base", "head", "slack", "expected"),
    [
        (100, 100, (0.0, 0.0), Verdict.SAME),
        (100, 101, (0.0, 0.0), Verdict.WORSE),
        (100, 110, (0.0, 10.0), Verdict.SAME),
        (100, 111, (0.0, 10.0), Verdict.WORSE),
        (100, 89, (0.0, 10.0), Verdict.BETTER),
        (100, 120, (0.1, 10.0), Verdict.SAME),
        (0, 1, (0.5, 0.0), Verdict.WORSE),
        (100, math.nan, (0.0, 10.0), Verdict.WORSE),
        (math.nan, 100, (0.0, 10.0), Verdict.WORSE),
        (math.nan, math.nan, (0.0, 10.0), Verdict.SAME),
    ],
)
def test_figures(base: float, head: float, slack: tuple[float, float], expected: Verdict) -> None:
    """Less is better, the slack is relative plus absolute, and a NaN is never good news."""
    assert verdict.judge_figure(a_figure(slack), (base, head)).verdict is expected


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure("", "ValueError: no"), Verdict.FAILS),
        (Failure("", "skipped"), Verdict.FAILS),
        (Failure("skipped", ""), Verdict.NEW),
        (Failure("skipped", "skipped"), Verdict.SAME),
    ],
)
def test_what_cannot_be_measured(failure: Failure, expected: Verdict) -> None:
    """Head must be able to do what base can."""
    assert verdict.judge_time(a_time(), failure, FACTOR).verdict is expected
    assert verdict.judge_figure(a_figure(), failure).verdict is expected


# --- the report


def test_quantities() -> None:
    """Four digits and a unit that fits."""
    told = [report.quantity(x, "seconds") for x in (12.34567, 0.0123456, 1.5e-5, 2e-8, math.nan)]
    assert told == ["12.35 s", "12.35 ms", "15 us", "0.02 us", "-"]
    told = [report.quantity(x, "bytes") for x in (0, 12, 4096, 5 << 20, 3 << 30)]
    assert told == ["0 B", "12 B", "4 KiB", "5 MiB", "3 GiB"]
    assert report.quantity(11, "functions") == "11 functions"


def test_the_table() -> None:
    """What is refused comes first, below titles, in columns."""
    better = Row("b", "bytes", 2048.0, 1024.0, 0.5, 0.5, 0.5, Verdict.BETTER)
    slower = Row("a(x)", "seconds", 0.001, 0.0013, 1.3, 1.25, 1.35, Verdict.SLOWER)
    fails = Row("c", "seconds", *[math.nan] * 5, Verdict.FAILS, "KeyError: 'x'")
    assert report.table([better, slower, fails]).splitlines() == [
        "        benchmark   base    head  ratio  interval",
        "fails   c              -       -      -  KeyError: 'x'",
        "slower  a(x)        1 ms  1.3 ms  1.300  1.250 to 1.350",
        "better  b          2 KiB   1 KiB  0.500",
    ]
    assert report.summary([better, slower, fails]) == "refused: 2 of 3 slower or worse"
    same = better._replace(verdict=Verdict.SAME)
    told = "passed: 1 the same, 1 changed, nothing slower or worse"
    assert report.summary([better, same]) == told


# --- two processes

BENCHMARKS = """
import os
import subprocess
import sys

HEAD = "head" in os.environ["NUMBA_CACHE_DIR"]


class Clock:
    # What these benchmarks are timed by: it goes on when they say so.

    now = 0.0

    def __call__(self):
        return self.now


clock = Clock()


class Times:
    version, unit = "1", "seconds"
    timer = clock
    params = (["steady", "slower", "on head only", "on base only", "broken on head"], )
    param_names = ("what",)

    def setup(self, what):
        if what == f"on {'base' if HEAD else 'head'} only":
            raise NotImplementedError
        if what == "broken on head" and HEAD:
            raise ValueError("broken")
        self.seconds = 0.002 if HEAD and what == "slower" else 0.001

    def time_call(self, what):
        print("what a revision prints is no answer")
        clock.now += self.seconds

    def in_gate(self, what):
        return what in ("steady", "slower")


class Raw:
    version, unit = "1", "seconds"

    def timeraw_import(self):
        return "import json", "import sys"


class Figures:
    version, unit = "1", "bytes"
    slack = (0.0, 0)
    params = (["steady", "worse", "planted", "dying on head"], )

    def track_bytes(self, what):
        if what == "dying on head" and HEAD:
            os._exit(7)
        if what == "planted":
            return subprocess.run([sys.executable, "-c", "import planted"]).returncode
        return 1000 + (what == "worse") * HEAD

    def in_gate(self, what):
        return what == "steady"


class Ratio:
    version, unit = "1", "times the probe"

    def track_ratio(self):
        return 2.0
"""


@pytest.fixture(name="pair")
def _pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Environment]:
    """Two environments, of which each is this one, but knows its name."""
    here = property(lambda self: Path(sys.executable))
    monkeypatch.setattr(Environment, "python", here)
    return [Environment(name, name * 10, tmp_path / name) for name in ("base", "head")]


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A folder of benchmarks."""
    folder = tmp_path / "some_benchmarks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "all_of_them.py").write_text(BENCHMARKS)
    return folder


def listed(pair: list[Environment], folder: Path) -> dict[str, Benchmark]:
    """All benchmarks by their labels, without the name of the module."""
    found, versions = contest.list_benchmarks(pair[1], folder)
    assert set(versions) == {"numba", "numpy"}
    return {one.label.partition(".")[2]: one for one in found}


def test_list_of_benchmarks(pair: list[Environment], folder: Path) -> None:
    """As asv finds them, with what the gate needs to know."""
    found = listed(pair, folder)
    assert len(found) == 5 + 1 + 4 + 1
    one = found["Times.time_call(on base only)"]
    assert one == Benchmark(
        "all_of_them.Times.time_call",
        3,
        "all_of_them.Times.time_call(on base only)",
        "time",
        "seconds",
        None,
        False,
    )
    gated = [label for label, one in found.items() if one.gated]
    assert gated == [
        "Times.time_call(steady)",
        "Times.time_call(slower)",
        "Figures.track_bytes(steady)",
    ]
    # Without a slack, a tracked number is none that the gate can judge.
    assert found["Figures.track_bytes(worse)"].is_figure
    assert not found["Ratio.track_ratio"].is_figure
    assert not found["Ratio.track_ratio"].is_time
    assert found["Raw.timeraw_import"].is_time


def test_times_of_two_processes(
    pair: list[Environment], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many launches and turns as asked for, and the failures of each side."""
    started: list[str] = []
    make = contest.Worker

    def worker(environment: Environment, benchmarks: Path) -> Any:
        started.append(environment.revision)
        return make(environment, benchmarks)

    monkeypatch.setattr(contest, "Worker", worker)
    found = listed(pair, folder)
    started.clear()
    chosen = [one for one in found.values() if one.is_time]
    outcomes = contest.times(pair, folder, chosen, Effort(launches=3, pairs=4, seconds=10))
    by_label = {one.label.partition(".")[2]: outcomes[one] for one in chosen}
    assert started == ["base", "head", "head", "base", "base", "head"]
    assert by_label.pop("Times.time_call(on base only)") == Failure("", "skipped")
    assert by_label.pop("Times.time_call(on head only)") == Failure("skipped", "")
    broken = Failure("", "ValueError: broken")
    assert by_label.pop("Times.time_call(broken on head)") == broken
    assert set(by_label) == {
        "Times.time_call(steady)",
        "Times.time_call(slower)",
        "Raw.timeraw_import",
    }
    for launches in by_label.values():
        assert [len(turns) for turns in launches] == [4, 4, 4]
        assert all(base > 0 and head > 0 for base, head in itertools.chain(*launches))
    for base, head in itertools.chain(*by_label["Times.time_call(slower)"]):
        # Which side is which is never mixed up.
        assert base == pytest.approx(0.001)
        assert head == pytest.approx(0.002)


def test_time_is_up(pair: list[Environment], folder: Path) -> None:
    """Long calls have fewer turns, but not none."""
    (one,) = [b for name, b in listed(pair, folder).items() if name == "Times.time_call(steady)"]
    found = contest.times(pair, folder, [one], Effort(launches=1, pairs=100, seconds=0))
    assert [len(launch) for launch in found[one]] == [contest.LEAST_PAIRS]


def test_figures_of_two_processes(pair: list[Environment], folder: Path) -> None:
    """Of base and of head; a process that ends is an error that names the revision."""
    found = listed(pair, folder)
    chosen = [found["Figures.track_bytes(steady)"], found["Figures.track_bytes(worse)"]]
    figures = contest.figures(pair, folder, chosen)
    assert list(figures.values()) == [(1000, 1000), (1000, 1001)]
    with pytest.raises(GateError, match="the process of head ended with status 7"):
        contest.figures(pair, folder, [found["Figures.track_bytes(dying on head)"]])


def test_nothing_is_imported_from_elsewhere(
    pair: list[Environment], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies around here, as this very package, must not be taken for the revision."""
    (tmp_path / "planted.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = listed(pair, folder)["Figures.track_bytes(planted)"]
    assert contest.figures(pair, folder, [one]) == {one: (1, 1)}


def test_benchmarks_that_cannot_be_imported(pair: list[Environment], tmp_path: Path) -> None:
    """There is nothing to judge."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "__init__.py").write_text("import no_such_module\n")
    with pytest.raises(GateError, match="the process of head ended with status 1"):
        contest.list_benchmarks(pair[1], folder)


# --- the command


@pytest.fixture(name="command")
def _command(
    pair: list[Environment], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """The command, on those benchmarks and environments."""
    named = {environment.revision: environment for environment in pair}
    monkeypatch.setattr(environments, "find", lambda repository, revision, _: named[revision])
    monkeypatch.setattr(environments, "install", lambda repository, environment: None)
    monkeypatch.setattr(gate, "BENCHMARKS", folder)
    monkeypatch.setattr(gate, "Effort", functools.partial(Effort, seconds=600))
    return lambda *arguments: gate.main([*arguments, "--launches=2", "--pairs=8"])


def test_refused(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """What is marked for the gate is measured; what is slower is named, the rest is counted."""
    assert command("base", "head") == gate.REFUSED
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 3
    assert "measuring 2 times, 2 launches\n" in err
    assert "measuring 1 of them again\n" in err
    assert lines[1].startswith("slower  all_of_them.Times.time_call(slower)  ")
    assert lines[2] == "refused: 1 of 3 slower or worse"


def test_passed(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """A revision is as fast as itself."""
    assert command("base", "base") == gate.PASSED
    told = "passed: 3 the same, 0 changed, nothing slower or worse\n"
    assert capsys.readouterr().out == told


def test_selection(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """A pattern selects, marked or not; what is allowed to get worse is shown, not refused."""
    assert command("base", "head", "--bench=track_bytes.(steady|worse)") == gate.REFUSED
    assert "worse  all_of_them.Figures.track_bytes(worse)" in capsys.readouterr().out
    options = ("--bench=track_bytes.(steady|worse)", "--allow=worse", "--all")
    assert command("base", "head", *options) == gate.PASSED
    out = capsys.readouterr().out
    assert "worse  all_of_them.Figures.track_bytes(worse)" in out
    assert "same   all_of_them.Figures.track_bytes(steady)" in out
    assert command("base", "head", "--bench=broken on head") == gate.REFUSED
    assert "fails  all_of_them.Times.time_call(broken on head)" in capsys.readouterr().out


def test_nothing_to_measure(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """That is no pass."""
    assert command("base", "head", "--bench=no such thing") == gate.FAILED
    assert "gate.py: error: no benchmark is selected" in capsys.readouterr().err


def test_no_such_revision(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nor is that."""
    repository = make_repository(tmp_path / "r", {"a.txt": "1"})
    options = [f"--repository={repository}", f"--environments={tmp_path}"]
    assert gate.main(["HEAD", "no-such-thing", *options]) == gate.FAILED
    assert "gate.py: error: no-such-thing is no revision of" in capsys.readouterr().err


# --- revisions


def git(folder: Path, *arguments: str) -> str:
    """Run git, as somebody."""
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def make_repository(folder: Path, files: dict[str, str]) -> Path:
    """Make a repository with one commit."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def commit(folder: Path) -> str:
    """Commit everything."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=A change")
    return git(folder, "rev-parse", "HEAD")


def test_a_revision_that_cannot_be_installed(tmp_path: Path) -> None:
    """What pip says is told, and the next attempt begins anew."""
    repository = make_repository(tmp_path / "r", {"a.txt": "1"})
    environment = environments.find(repository, "HEAD", tmp_path / "e")
    for _ in range(2):
        with pytest.raises(GateError, match=r"HEAD cannot be installed: .*not installable"):
            environments.install(repository, environment)


SLOWED = (
    "numba_xent/_cpu/kernels.py",
    """        for item in range(first, last):
            solve(""",
    """        count = last - first
        for number in range(count * 13 // 10 if rows and not dense and not gradient else count):
            if number == count:
                store(work.known, np.int64(-1))
            item = first + number % count
            solve(""",
)
"""Thirty of a hundred units are solved twice, by one kernel."""

COPIED = (
    "numba_xent/_cpu/backend.py",
    "given = (problem.logits, ",
    "given = (problem.logits.copy(), ",
)
NOTHING = ("CHANGELOG.md", "# Changelog\n", "# Changelog\n\nNothing has changed.\n")


class Copy:
    """A copy of this repository as it is here, to which changes are committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tracked = git(ROOT, "ls-files").splitlines()
        files = {name: ROOT / name for name in tracked if (ROOT / name).is_file()}
        for name, path in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
        git(folder, "init", "--quiet")
        self.base = commit(folder)

    def changed(self, change: tuple[str, str, str]) -> str:
        """Commit a change to the base."""
        name, before, after = change
        git(self.folder, "checkout", "--quiet", "--detach", self.base)
        path = self.folder / name
        text = path.read_text("utf-8")
        assert text.count(before) == 1, f"{name} has changed: say anew how to change it"
        path.write_text(text.replace(before, after), "utf-8")
        return commit(self.folder)


def run_gate(copy: Copy, head: str, environments: Path, *options: str) -> tuple[int, str]:
    """Run the command as a user does; its status, and what it printed."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "asv_benchmarks" / "gate.py"),
            copy.base,
            head,
            f"--repository={copy.folder}",
            f"--environments={environments}",
            *options,
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stdout)
    return done.returncode, done.stdout


def rows_of(printed: str) -> dict[str, list[str]]:
    """The labels of a printed table, by verdict."""
    found: dict[str, list[str]] = {}
    for line in printed.splitlines()[1:-1]:
        word, label, *_ = [part for part in line.split("  ") if part]
        found.setdefault(word.strip(), []).append(label.strip())
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_short_form(tmp_path: Path) -> None:
    """A copy of the logits is refused for its bytes alone: nothing is timed, so noise is no matter."""
    copy = Copy(tmp_path / "repository")
    head = copy.changed(COPIED)
    options = ("--bench=figures.Memory.*nn.sparse.*, value",)
    status, printed = run_gate(copy, head, tmp_path / "environments", *options)
    assert status == gate.REFUSED
    sparse = "nn.sparse_softmax_cross_entropy_with_logits"
    assert rows_of(printed) == {"worse": [f"figures.Memory.track_allocated({sparse}, value)"]}
    status, printed = run_gate(copy, copy.base, tmp_path / "environments", *options)
    assert status == gate.PASSED
    assert printed == "passed: 1 the same, 0 changed, nothing slower or worse\n"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_proof(tmp_path: Path) -> None:
    """A slower kernel and a copy are refused and named; no change passes, five times of five."""
    copy = Copy(tmp_path / "repository")
    kept = tmp_path / "environments"

    status, printed = run_gate(copy, copy.changed(SLOWED), kept)
    assert status == gate.REFUSED
    rows = rows_of(printed)
    labels = rows.pop("slower")
    rows.pop("faster", None)
    assert rows == {}
    sparse = "steady.SparseSoftmaxCrossEntropyWithLogits.time_call"
    assert f"{sparse}(value, float32, 2048 x [1000], int64)" in labels
    # The same kernel solves the losses of the other, and nothing else.
    assert all("Sparse" in label and "value" in label for label in labels)

    status, printed = run_gate(copy, copy.changed(COPIED), kept)
    assert status == gate.REFUSED
    rows = rows_of(printed)
    dense = "nn.softmax_cross_entropy_with_logits_v2"
    assert f"figures.Memory.track_allocated({dense}, value)" in rows["worse"]
    assert f"figures.Memory.track_allocated({dense}, gradient)" in rows["worse"]

    unchanged = copy.changed(NOTHING)
    assert [run_gate(copy, unchanged, kept)[0] for _ in range(5)] == [gate.PASSED] * 5
