"""The parts of the benchmark: never how fast anything is, only that it is measured rightly."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import numba_xent as xent
from numba_xent.__main__ import main
from numba_xent._bench import BenchError, contest, plot, report, timing
from numba_xent._bench import run as bench_run
from numba_xent._bench.calls import our_call, our_call_with, our_call_without
from numba_xent._bench.cases import WITH_OPTION, Case, Task, tasks_of
from numba_xent._bench.contest import Worker, WorkerError, compete
from numba_xent._bench.operands import Operands
from numba_xent._bench.options import SECTIONS, add_bench_options, chosen_sections
from numba_xent._bench.peers import OURSELVES, PEERS, Peer
from numba_xent._bench.probe import Probe
from numba_xent._bench.results import OURS, Measurement, load_json, measurement, save_json
from numba_xent._bench.sections import Arena
from numba_xent._bench.timing import Contestant, Summary, ratios, repeats, take_turns
from numba_xent._bench.worker import reason_of, serve
from numba_xent._cpu.intrinsics import bits_register, fence, pointer, store_streaming, zeros

SMALL = Case((6, 5))
GIB = 1 << 30


def task(section: str = "throughput", **changes: Any) -> Task:
    """Return a task, dense values of a small case unless told otherwise."""
    return Task(section, SMALL, "dense", False)._replace(**changes)


def synthetic(of: Task, **others: float) -> Measurement:
    """Return what would be measured if a call of ours took 2 ms, and others as long as they say."""
    seconds = {OURS: [0.002] * 3, **{name: [time] * 3 for name, time in others.items()}}
    return measurement(of, 2, 8_000_000, seconds)


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


def all_tasks(*, quick: bool) -> Iterator[Task]:
    """All tasks of all sections."""
    for section in SECTIONS:
        yield from tasks_of(section, quick=quick)


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


# --- operands and calls


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_operands(dtype: str, axis: int) -> None:
    """Finite logits, probabilities, classes; the same every time."""
    case = Case((5, 6, 7), axis, dtype)
    operands, again = Operands(case), Operands(case)
    assert operands.logits.dtype.name == operands.dense.dtype.name == dtype
    assert operands.logits.shape == operands.dense.shape == operands.gradient.shape == case.shape
    assert operands.sparse.shape == operands.losses.shape == operands.weights.shape == case.batch
    sums = operands.dense.astype(np.float64).sum(axis)
    np.testing.assert_allclose(sums, 1, atol=0.03)
    assert 0 <= operands.sparse.min() <= operands.sparse.max() < case.classes
    assert np.std(operands.logits.astype(np.float64)) == pytest.approx(1, abs=0.2)
    assert 0 < np.count_nonzero(operands.weights) < operands.weights.size
    for name in ("logits", "dense", "sparse", "weights"):
        np.testing.assert_array_equal(getattr(operands, name), getattr(again, name))


@pytest.mark.parametrize("labels", ["dense", "sparse"])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bytes(labels: str, gradient: bool, dtype: str) -> None:
    """What a call must move, counted by hand."""
    t = task(case=Case((4, 6, 5), 1, dtype), labels=labels, gradient=gradient)
    size = np.dtype(dtype).itemsize
    expected = 120 * size + (120 * size if labels == "dense" else 20 * 8) + 20 * size
    expected += 120 * size if gradient else 0
    operands = Operands(t.case)
    assert operands.nbytes(t) == expected
    assert Probe(*operands.moved(t)).nbytes == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("labels", ["dense", "sparse"])
@pytest.mark.parametrize("fresh", [False, True])
def test_our_call(axis: int, labels: str, fresh: bool) -> None:
    """Losses and gradient are those of the logits as they lie there."""
    operands = Operands(Case((3, 4, 5), axis, "float64"))
    t = task(case=operands.case, labels=labels)
    x = operands.logits
    p = np.exp(x) / np.exp(x).sum(axis, keepdims=True)
    dense = operands.dense
    if labels == "sparse":
        dense = np.moveaxis(np.eye(x.shape[axis])[operands.sparse], -1, axis)
    losses = our_call(t, operands, fresh=fresh)()
    np.testing.assert_allclose(losses, -(dense * np.log(p)).sum(axis))
    again, gradient = our_call(t._replace(gradient=True), operands, fresh=fresh)()
    np.testing.assert_array_equal(again, losses)
    if labels == "sparse":
        gradient = np.moveaxis(gradient, -1, axis)
    np.testing.assert_allclose(gradient, p - dense, atol=1e-15)
    assert np.shares_memory(gradient, operands.gradient) != fresh


@pytest.mark.parametrize(
    ("labels", "option"), [(kind, name) for kind, names in WITH_OPTION.items() for name in names]
)
@pytest.mark.parametrize("gradient", [False, True])
def test_options_change_the_value(labels: str, option: str, gradient: bool) -> None:
    """A call with an option computes something else than the one without."""
    operands = Operands(SMALL)
    t = task(labels=labels, gradient=gradient)
    values = [
        make(option, t, operands)()[0] if gradient else make(option, t, operands)()
        for make in (our_call_with, our_call_without)
    ]
    assert not np.array_equal(*values)
    without = xent.nn.softmax_cross_entropy_with_logits_v2(operands.dense, operands.logits)
    if labels == "dense":
        np.testing.assert_array_equal(values[1], without)


# --- probe


def random_bytes(size: int, offset: int = 0) -> np.ndarray:
    """Bytes that begin anywhere in a cache line."""
    return np.random.default_rng(size).integers(0, 256, size + offset, np.uint8)[offset:]


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 9999])
@pytest.mark.parametrize("offset", [0, 3, 61])
@pytest.mark.parametrize("threads", [1, 2])
def test_probe_reads_and_writes_every_byte(
    size: int, offset: int, threads: int, many_threads: Callable[[int], None]
) -> None:
    """The sum depends on each byte, and nothing beside the outputs changes."""
    many_threads(threads)
    x, labels = random_bytes(size, offset), random_bytes(size, offset + 1)
    small = random_bytes(size + 1)
    around = [random_bytes(size + 200) for _ in range(2)]
    before = [array.copy() for array in around]
    gradient, losses = around[0][100 : 100 + size], around[1][50 : 50 + size - 1]
    probe = Probe([x, labels, small], [gradient, losses])
    assert probe.nbytes == 5 * size
    total = probe()
    np.testing.assert_array_equal(gradient, x | labels)
    assert not losses.any()
    for now, old, start, length in (
        (around[0], before[0], 100, size),
        (around[1], before[1], 50, size - 1),
    ):
        np.testing.assert_array_equal(now[:start], old[:start])
        np.testing.assert_array_equal(now[start + length :], old[start + length :])
    for array in (x, labels, small):
        for i in {*range(min(70, array.size)), *range(max(0, array.size - 70), array.size)}:
            array[i] ^= 16
            assert probe() != total
            array[i] ^= 16
    assert probe() == total


@pytest.fixture(name="many_threads")
def _many_threads() -> Iterator[Callable[[int], None]]:
    before = numba.get_num_threads()

    def choose(threads: int) -> None:
        if threads > numba.config.NUMBA_NUM_THREADS:
            pytest.skip(f"Numba has fewer than {threads} threads")
        numba.set_num_threads(threads)

    yield choose
    numba.set_num_threads(before)


def test_probe_copies_what_one_array_holds() -> None:
    """One array to read and one to write of the same size."""
    x, out = random_bytes(777), np.zeros(777, np.uint8)
    Probe([x], [out])()
    np.testing.assert_array_equal(out, x)


def test_probe_takes_no_array_with_gaps() -> None:
    """It would move other bytes than it counts."""
    with pytest.raises(ValueError, match="C-contiguous"):
        Probe([np.zeros((4, 4))[:, ::2]], [])


def test_streaming_stores_are_streaming() -> None:
    """LLVM is told so, and of the fence."""

    @numba.njit
    def fill(array: np.ndarray) -> None:
        store_streaming(pointer(array.ctypes.data), bits_register(zeros("float32", 1)))
        fence()

    whole = np.ones(256, np.uint8)
    start = -whole.ctypes.data % 64
    fill(whole[start : start + 64])
    assert not whole[start : start + 64].any()
    assert whole[:start].all()
    assert whole[start + 64 :].all()
    (llvm,) = fill.inspect_llvm().values()
    assert re.search(r"store <16 x i32>.*align 64, !nontemporal", llvm)
    assert "fence seq_cst" in llvm


# --- timing


def test_median_of_ratios_is_no_ratio_of_medians() -> None:
    """Noise that slows down a whole round does not count."""
    ours, probe = [1.0, 10.0, 2.0, 100.0, 3.0], [0.5, 5.0, 1.0, 50.0, 30.0]
    assert ratios(probe, ours).median == 0.5
    assert np.median(probe) / np.median(ours) != 0.5
    with pytest.raises(ValueError, match="shorter"):
        ratios(probe, ours[:-1])


def test_summary() -> None:
    """Median, quartiles, and all rounds in their order."""
    assert Summary.of([5, 1, 2, 4, 3]) == (3.0, 2.0, 4.0, (5.0, 1.0, 2.0, 4.0, 3.0))
    assert Summary.of([7]) == (7.0, 7.0, 7.0, (7.0,))


def test_repeats() -> None:
    """Short calls are repeated, long ones not, none for ever."""
    assert repeats(0.001, 0.01) == 10
    assert repeats(5.0, 0.01) == 1
    assert repeats(0.0, 0.01, most=99) == 99


def test_contestants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has one turn a round, beginning with another each time, with its own threads."""
    now, log = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    threads: list[int] = []
    monkeypatch.setattr(timing.numba, "set_num_threads", threads.append)
    monkeypatch.setattr(timing.numba, "get_num_threads", lambda: 7)

    def contestant(name: str, seconds: float, count: int) -> Contestant:
        def call() -> None:
            now[0] += seconds
            log.append(name)

        return Contestant(name, call, count)

    seconds = take_turns([contestant("a", 1.0, 1), contestant("b", 0.001, 2)], 3)
    assert seconds == {
        "a": pytest.approx([1.0] * 3),
        "b": pytest.approx([0.001] * 3),
    }
    warmed_up, turns = "".join(log[:4]), "".join(log[4:])
    assert warmed_up == "aabb"
    assert re.fullmatch(r"a(b+)\1aa\1", turns)
    assert threads == [1, 1, 2, 2, 1, 2, 2, 1, 1, 2, 7]


def test_measurement_says_how_many_times_as_fast_we_are() -> None:
    """The others' time by ours."""
    m = synthetic(task(), probe=0.001, float32=0.004)
    assert m.ours == 0.002
    assert m.speed["probe"].median == 0.5
    assert m.speed["float32"].median == 2
    assert m.against is m.speed["probe"]


@pytest.mark.parametrize(
    ("section", "others"),
    [
        ("throughput", {"probe"}),
        ("halves", {"probe", "float32"}),
        ("cache", set()),
        ("options", {"no option"}),
        ("threads", {"1 thread"}),
    ],
)
def test_arena(section: str, others: set[str]) -> None:
    """Every kind of contestant can be called."""
    arena = Arena(numba.get_num_threads(), rounds=2)
    for t in tasks_of(section, quick=True)[:2]:
        m = arena.measure(t._replace(case=t.case._replace(shape=SMALL.shape)))
        assert set(m.seconds) == others | {OURS}
        assert set(m.speed) == others
        assert all(len(summary.rounds) == 2 for summary in m.seconds.values())
        assert all(0 < summary.median < 60 for summary in m.seconds.values())


# --- report


def test_numbers_have_no_more_digits_than_they_deserve() -> None:
    """About three."""
    assert [report.significant(x) for x in (0.01234, 1.234, 12.34, 123.4, 12345.6)] == [
        "0.012",
        "1.23",
        "12.3",
        "123",
        "12346",
    ]


def test_a_row_of_the_throughput() -> None:
    """Titles and numbers stand in the same columns, within 80 of them."""
    *_, title = report.header("throughput")
    (row,) = report.rows("throughput", [synthetic(task(case=Case((1000, 10))), probe=0.0015)])
    assert title == (
        "problem          dtype     labels  of              ms    GB/s  probe    ns/row"
    )
    assert row == ("1000x10          float32   dense   value         2.00     4.0   0.75      2000")


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != "peers"])
def test_every_table_fits(section: str) -> None:
    """Rows end where their titles end."""
    title = report.header(section)[-1]
    tasks = tasks_of(section, quick=False)
    of_case = [t for t in tasks if t.case == tasks[0].case]
    others = dict.fromkeys(("probe", "float32", "no option", "1 thread"), 0.001)
    for row in report.rows(section, [synthetic(t, **others) for t in of_case]):
        assert len(row) == len(title) <= 80
        assert row.isascii()


def test_few_classes_have_a_row_per_count() -> None:
    """The kinds stand in the columns, a dash for what is missing."""
    kinds = [("dense", True, 0.001), ("sparse", False, 0.0005)]
    measured = [
        synthetic(task("few", labels=labels, gradient=gradient), probe=seconds)
        for labels, gradient, seconds in kinds
    ]
    (row,) = report.rows("few", measured)
    assert row.split() == ["5", "-", "0.50", "0.25", "-"]


FAKE = {name: Peer(name, f"a {name} library", (), f"fake_peers:{name}") for name in (
    "right", "wrong", "failing", "dying", "silent"
)}  # fmt: skip


def test_rows_of_peers() -> None:
    """In the order of the tasks; the best is the fastest of those that could."""
    first, second = task("peers"), task("peers", gradient=True)
    measured = [
        synthetic(first, right=0.004),
        synthetic(second, right=0.005),
        synthetic(first, wrong=0.003),
    ]
    rows = report.peer_rows(measured, [FAKE["right"], FAKE["wrong"]])
    assert [row.split() for row in rows] == [
        ["6x5", "dense", "value", "2.00", "4.00", "3.00", "1.50"],
        ["6x5", "dense", "gradient", "2.00", "5.00", "-", "2.50"],
    ]
    title = report.header("peers", [FAKE["right"], FAKE["wrong"]])[-1]
    assert {len(row) for row in rows} == {len(title)}


# --- results


def test_json(tmp_path: Path) -> None:
    """Everything is in the file, under names that say what it is."""
    path = tmp_path / "a.json"
    m = synthetic(task("halves", case=Case((4, 6, 5), 1, "float16"), labels="sparse"), probe=0.001)
    save_json(path, {"cpu": "x"}, {"rounds": 3}, [m], ["a note"])
    seconds = {"median": 0.002, "lower": 0.002, "upper": 0.002, "rounds": [0.002] * 3}
    speed = {"median": 0.5, "lower": 0.5, "upper": 0.5, "rounds": [0.5] * 3}
    probe = {"median": 0.001, "lower": 0.001, "upper": 0.001, "rounds": [0.001] * 3}
    assert json.loads(path.read_text("utf-8")) == {
        "format": 1,
        "machine": {"cpu": "x"},
        "settings": {"rounds": 3},
        "measurements": [
            {
                "section": "halves",
                "problem": "4x[6]x5",
                "shape": [4, 6, 5],
                "axis": 1,
                "dtype": "float16",
                "labels": "sparse",
                "of": "value",
                "option": "",
                "threads": 2,
                "bytes": 8_000_000,
                "seconds": {"numba_xent": seconds, "probe": probe},
                "speed": {"probe": speed},
            }
        ],
        "notes": ["a note"],
    }
    with pytest.raises(BenchError, match=r"^--json .*: "):
        save_json(tmp_path / "none" / "a.json", {}, {}, [], [])


def test_json_is_read_back(tmp_path: Path) -> None:
    """What is written can be read, and nothing else is taken for it."""
    path = tmp_path / "a.json"
    task = tasks_of("throughput", quick=True)[0]
    m = measurement(task, 2, 64, {OURS: [1.0, 2.0, 4.0], "probe": [1.0, 1.0, 3.0]})
    save_json(path, {"cpu": "x"}, {"rounds": 3}, [m, m], ["a note"])
    saved = load_json(path)
    assert saved.machine == {"cpu": "x"}
    assert saved.settings == {"rounds": 3}
    assert saved.notes == ["a note"]
    assert saved.measurements == [m._replace(task=task._replace(against=()))] * 2
    for text in ("{", "[]", '{"format": 0}'):
        path.write_text(text, "utf-8")
        with pytest.raises(BenchError, match=r"a\.json: "):
            load_json(path)


def test_plot(tmp_path: Path) -> None:
    """A picture of whatever was measured."""
    path = tmp_path / "a.png"
    tasks = [*tasks_of("throughput", quick=True), *tasks_of("few", quick=True)]
    measured = [synthetic(t, probe=0.001) for t in tasks]
    measured += [synthetic(t, right=0.004) for t in tasks_of("peers", quick=True)]
    plot.save_plot(path, measured)
    assert path.read_bytes().startswith(b"\x89PNG")
    plot.save_plot(path, measured[:1])
    plot.save_plot(path, [])  # as when no peer is installed
    with pytest.raises(BenchError, match=r"^--plot .*: "):
        plot.save_plot(tmp_path / "none" / "a.png", measured)


# --- peers


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
    assert len({peer.name for peer in PEERS}) == len(PEERS) <= len(plot.MARKERS)
    assert Peer("x", "X", ("json", "no_such_module"), "").missing == ["no_such_module"]
    assert all(type(peer.missing) is list for peer in PEERS)
    assert not {"torch", "tensorflow", "jax"} & (set(sys.modules) - before)


# --- whole runs


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
