"""The benchmark as a command: never how fast anything is, only that it is measured rightly."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench_tasks import all_tasks, synthetic

import numba_xent as xent
from numba_xent.__main__ import main
from numba_xent._bench import report
from numba_xent._bench import run as bench_run
from numba_xent._bench.cases import Task
from numba_xent._bench.contest import WorkerError
from numba_xent._bench.options import SECTIONS
from numba_xent._bench.peers import Peer
from numba_xent._bench.results import Measurement


class FakeArena:
    """Measures nothing."""

    def __init__(self, threads: int, rounds: int) -> None:
        assert threads >= 1
        assert rounds == 3

    def measure(self, t: Task) -> Measurement:
        """Make something up."""
        return synthetic(t, **dict.fromkeys(t.against, 0.001))


def test_all_sections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has its table, what is skipped says why, and all is in the file."""
    monkeypatch.setattr(bench_run, "Arena", FakeArena)
    monkeypatch.setattr(bench_run, "is_available", lambda dtype: dtype != "bfloat16")
    monkeypatch.setattr(bench_run, "PEERS", (Peer("X", "Some X", ("no_such_module",), ""),))
    path = tmp_path / "a.json"
    arguments = ["--quick", "--all", "--peers", "--threads=1", "--json", str(path)]
    assert main(["bench", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    for section in SECTIONS:
        assert f"{report.TITLES[section]}." in lines
    notes = [
        "bfloat16: skipped, ml_dtypes is not installed",
        "skipped: there is one thread only",
        "X: Some X skipped, no_such_module not installed",
    ]
    assert [line for line in lines if "skipped" in line] == notes
    assert lines[-1] == f"Measurements written to {path}."
    assert max(len(line) for line in lines[2:-1]) <= 80
    saved = json.loads(path.read_text("utf-8"))
    assert saved["notes"] == notes
    assert saved["settings"] == {
        "threads": 1,
        "rounds": 3,
        "quick": True,
        "sections": list(SECTIONS),
    }
    assert {"cpu_model", "cpu", "cores", "numba", "numpy", "llvmlite"} <= set(saved["machine"])
    expected = [
        t.as_dict()
        for t in all_tasks(quick=True)
        if t.section not in ("threads", "peers") and t.case.dtype != "bfloat16"
    ]
    found = [{name: m[name] for name in expected[0]} for m in saved["measurements"]]
    assert found == expected


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory; --quick takes little"),
        (WorkerError("it died"), "the process that numba_xent runs in: it died"),
    ],
)
def test_accidents_are_one_line(
    error: Exception,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback."""

    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(bench_run, "_measure", fail)
    assert main(["bench"]) == 2
    assert capsys.readouterr().err == f"python -m numba_xent bench: error: {message}\n"


def test_busy_machines_are_pointed_out() -> None:
    """A reader must not trust such numbers."""
    machine = dict.fromkeys(("numba_xent", "numba", "numpy", "python", "cpu_model", "cpu"), "1")
    settings = {"threads": 1, "rounds": 3}
    for load, lines in ((None, 2), (0.1, 2), (2.5, 3)):
        text = report.describe_run({**machine, "load": load}, settings)
        assert len(text.splitlines()) == lines
        assert ("load 2.5" in text) == (load == 2.5)


def test_quick_run(tmp_path: Path) -> None:
    """As a user starts it."""
    files = ["--json=a.json", "--plot=a.png"]
    done = subprocess.run(
        [sys.executable, "-m", "numba_xent", "bench", "--quick", "--only=halves,latency", *files],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(xent.__file__).parents[1])},
        capture_output=True,
        encoding="utf-8",
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("numba_xent ")
    numbers = r" +[\d.]+"
    row = r"128x1000 +b?float16 +(dense|sparse) +(value|gradient)"
    assert len([line for line in lines if re.fullmatch(row + 4 * numbers, line)]) == 8
    row = r"32x10 +float32 +(dense|sparse) +(value|gradient)"
    assert len([line for line in lines if re.fullmatch(row + numbers, line)]) == 4
    saved = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert len(saved["measurements"]) == 12
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
