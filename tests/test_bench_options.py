"""What the benchmark is told, and which cases it makes of that."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from bench_tasks import all_tasks

from numba_xent.__main__ import main
from numba_xent._bench import run as bench_run
from numba_xent._bench.cases import WITH_OPTION, Case, Task, tasks_of
from numba_xent._bench.options import SECTIONS, add_bench_options, chosen_sections

GIB = 1 << 30


# --- options


def parsed(*arguments: str) -> argparse.Namespace:
    """Parse a command line."""
    parser = argparse.ArgumentParser()
    add_bench_options(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "sections"),
    [
        ([], ["throughput", "halves", "cache", "latency"]),
        (["--peers"], ["throughput", "halves", "cache", "latency", "peers"]),
        (["--only", "latency, few"], ["few", "latency"]),
        (["--only=peers"], ["peers"]),
        (["--all"], [name for name in SECTIONS if name != "peers"]),
        (["--all", "--peers"], list(SECTIONS)),
    ],
)
def test_sections_are_chosen(arguments: list[str], sections: list[str]) -> None:
    """In one order, each once."""
    assert chosen_sections(parsed(*arguments)) == sections


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "speed"], "--only: 'speed' is not one of throughput, few, "),
        (["--only", ""], "--only: '' is not one of throughput"),
        (["--only", "few", "--all"], "--all: not allowed with argument --only"),
        (["--rounds", "0"], "--rounds: '0' is not a whole number of at least 1"),
        (["--threads", "two"], "--threads: 'two' is not a whole number of at least 1"),
    ],
)
def test_invalid_options(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line names the option and what it must be."""
    with pytest.raises(SystemExit) as exit_:
        main(["bench", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "100000"], "--threads 100000: Numba has "),
        (["--json", "none/a.json"], f"--json {Path('none/a.json')}: there is no folder none"),
        (["--json", "a.txt"], "--json a.txt: the name must end in .json"),
        (["--plot", "a.pdf"], "--plot a.pdf: the name must end in .png"),
        (["--plot", "a.png", "--only=latency"], "--plot: draws the sections throughput, "),
    ],
)
def test_obstacles_are_found_before_anything_is_measured(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, and exit status 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_run, "_measure", None)
    assert main(["bench", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"python -m numba_xent bench: error: {message}")
    assert output.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_plot_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["bench", "--plot", str(tmp_path / "a.png")]) == 2
    assert capsys.readouterr().err == (
        "python -m numba_xent bench: error: --plot needs matplotlib, which is not installed: "
        'pip install "numba_xent[plot]"\n'
    )


# --- cases


@pytest.mark.parametrize("quick", [False, True])
def test_tasks(quick: bool) -> None:
    """Each section has some, each is there once, and they are no larger than is polite."""
    tasks = list(all_tasks(quick=quick))
    assert {t.section for t in tasks} == set(SECTIONS)
    assert len(set(tasks)) == len(tasks)
    for t in tasks:
        logits = math.prod(t.case.shape) * np.dtype(np.float64).itemsize
        assert t.case.logits == math.prod(t.case.shape) > 0
        assert logits <= (1 << 20 if quick else GIB)
        assert t.case.classes == t.case.shape[t.case.axis] > 1
        assert t.option in ("", *WITH_OPTION[t.labels])
        assert Task.from_dict(json.loads(json.dumps(t.as_dict()))) == t._replace(against=())


def test_few_classes_are_all_counts() -> None:
    """From 2 to 64, dense and sparse, value and gradient."""
    tasks = tasks_of("few", quick=False)
    assert {t.case.classes for t in tasks} == set(range(2, 65))
    assert len(tasks) == 63 * 4


def test_names_of_cases() -> None:
    """The class axis stands out if it is not the last."""
    assert Case((6, 5)).name == "6x5"
    assert Case((6, 5), axis=0).name == "[6]x5"
    assert Case((2, 21, 8, 9)).name == "2x[21]x8x9"
    assert Case((2, 21, 8, 9)).batch == (2, 8, 9)


def test_shrunk_cases_keep_their_classes_if_they_can() -> None:
    """Only a single row is cut."""
    assert Case((1024, 100)).shrunk(1000).shape == (8, 100)
    assert Case((2, 5000)).shrunk(1000).shape == (1, 625)
    assert Case((100, 1024), axis=0).shrunk(1000).shape == (100, 8)
    assert Case((4, 4)).shrunk(16).shape == (4, 4)
