"""Other libraries that the benchmark compares with: each in a process of its own."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_tasks import FAKE, task

from numba_xent.__main__ import main
from numba_xent._bench import contest, plot
from numba_xent._bench import run as bench_run
from numba_xent._bench.cases import Task
from numba_xent._bench.contest import Worker, WorkerError, compete
from numba_xent._bench.operands import Operands
from numba_xent._bench.peers import OURSELVES, PEERS, Peer
from numba_xent._bench.results import OURS
from numba_xent._bench.worker import reason_of, serve


@pytest.fixture(name="fakes")
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers find the fake libraries."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def answers_to(make: Callable[[], Any], *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """Serve requests in this process."""
    lines = io.StringIO("".join(f"{json.dumps(request)}\n" for request in requests))
    answers = io.StringIO()
    serve(make, lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_worker_answers_each_request() -> None:
    """An error is an answer, too, and not the end."""

    def prepare(t: Task, operands: Operands) -> Any:
        if t.labels == "dense":
            raise ValueError("no such thing")
        assert operands.logits.shape == t.case.shape
        return lambda: 3.0, lambda result: result + 1

    dense, sparse = (task(labels=labels).as_dict() for labels in ("dense", "sparse"))
    answers = answers_to(
        lambda: prepare,
        {"calls": 1},
        {"prepare": sparse},
        {"calls": 5},
        {"prepare": dense},
        {"calls": 5},
    )
    assert answers[0] == {"error": "RuntimeError: there is no call to measure"}
    assert set(answers[1]) == {"loss", "seconds"}
    assert answers[1]["loss"] == 4
    assert set(answers[2]) == {"seconds"}
    assert answers[2]["seconds"] > 0
    assert answers[3] == {"error": "ValueError: no such thing"}
    assert answers[4] == answers[0]


def test_worker_without_its_library() -> None:
    """Every request says so."""

    def make() -> Any:
        raise ImportError("No module named 'jax'")

    error = {"error": "ImportError: No module named 'jax'"}
    assert answers_to(make, {"calls": 1}, {"calls": 1}) == [error, error]


def test_reasons_are_short() -> None:
    """The first line of a message, and not all of a long one."""
    assert reason_of(ValueError("one\ntwo")) == "ValueError: one"
    assert reason_of(KeyError()) == "KeyError"
    assert len(reason_of(ValueError("x" * 1000))) < 130


@pytest.mark.usefixtures("fakes")
def test_compete() -> None:
    """Ours against one that is right, one that is wrong, one that fails and one that dies."""
    peers = [FAKE[name] for name in ("right", "wrong", "failing", "dying")]
    dense, sparse = task("peers"), task("peers", labels="sparse")
    done: list[None] = []
    measured, notes = compete(peers, [dense, sparse], 1, 3, lambda: done.append(None))
    assert [(m.task, *m.speed) for m in measured] == [
        (dense, "right"),
        (sparse, "right"),
        (sparse, "failing"),
        (sparse, "dying"),
    ]
    assert len(done) == 8
    for m in measured:
        assert set(m.seconds) == {OURS, *m.speed}
        assert all(len(summary.rounds) == 3 for summary in m.seconds.values())
        assert m.nbytes == Operands(m.task.case).nbytes(m.task)
    assert notes == [
        "wrong: computes another loss (6x5 dense value and 1 more)",
        "failing: NotImplementedError: no dense labels (6x5 dense value)",
        "dying: its process has ended with status 7 (6x5 dense value)",
    ]


@pytest.mark.usefixtures("fakes")
def test_peer_that_never_answers_is_ended() -> None:
    """Its process does not stay."""
    worker = Worker(FAKE["silent"], 1)
    with pytest.raises(WorkerError, match=r"no answer in 0\.5 s"):
        worker.ask({"calls": 1}, seconds=0.5)
    assert not worker.is_alive
    with pytest.raises(WorkerError, match="its process has ended"):
        worker.ask({"calls": 1})
    worker.close()


@pytest.mark.usefixtures("fakes")
def test_peer_that_ends_again_and_again_is_left_alone() -> None:
    """It is started three times, and not for each task."""
    tasks = [task("peers")] * 4 + [task("peers", labels="sparse")]
    measured, notes = compete([FAKE["dying"]], tasks, 1, 1)
    assert measured == []
    assert notes == ["dying: its process has ended with status 7 (6x5 dense value and 4 more)"]


@pytest.mark.usefixtures("fakes")
def test_our_own_process_must_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it there is nothing to compare with."""
    monkeypatch.setattr(contest, "OURSELVES", FAKE["dying"])
    with pytest.raises(WorkerError, match="ended with status 7"):
        compete([FAKE["right"]], [task("peers")], 1, 1)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs affinities")
@pytest.mark.usefixtures("fakes")
def test_worker_has_as_many_processors_as_threads() -> None:
    """So no library takes more, whatever it is told."""
    worker = Worker(OURSELVES, 1)
    worker.ask({"prepare": task().as_dict()})
    affinity = os.sched_getaffinity(worker._process.pid)
    worker.close()
    assert len(affinity) == 1


def test_peers_are_found_without_importing_them() -> None:
    """Names are unique, and a missing module is told by its name."""
    before = set(sys.modules)
    assert len({peer.name for peer in PEERS}) == len(PEERS) <= len(plot.STYLES)
    assert Peer("x", "X", ("json", "no_such_module"), "").missing == ["no_such_module"]
    assert all(type(peer.missing) is list for peer in PEERS)
    assert not {"torch", "tensorflow", "jax"} & (set(sys.modules) - before)


@pytest.mark.usefixtures("fakes")
def test_peers_in_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each task, and below it why there are dashes."""
    monkeypatch.setattr(bench_run, "PEERS", (FAKE["right"], FAKE["failing"]))
    tasks = [task("peers"), task("peers", labels="sparse")]
    monkeypatch.setattr(bench_run, "tasks_of", lambda section, quick: tasks)
    assert main(["bench", "--quick", "--only=peers", "--threads=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].split() == ["problem", "labels", "of", "ours", "right", "failing", "x", "best"]
    assert lines[-3].startswith("6x5              dense   value ")
    assert lines[-3].split()[5] == "-"
    assert lines[-2].startswith("6x5              sparse  value ")
    assert lines[-1] == "failing: NotImplementedError: no dense labels (6x5 dense value)"
