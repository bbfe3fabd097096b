"""Measurements of the gate in two processes, and its command.

The benchmarks are made up, and so are their times and figures.
"""

import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gate
import pytest
from gating import GateError, contest, environments
from gating.contest import Benchmark, Effort, Failure
from gating.environments import Environment

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
