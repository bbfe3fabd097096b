"""What the benchmark makes of the times: ratios, tables, files and pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numba
import numpy as np
import pytest
from bench_tasks import FAKE, SMALL, synthetic, task

from numba_xent._bench import BenchError, plot, report, timing
from numba_xent._bench.cases import Case, tasks_of
from numba_xent._bench.options import SECTIONS
from numba_xent._bench.results import OURS, load_json, measurement, save_json
from numba_xent._bench.sections import Arena
from numba_xent._bench.timing import Contestant, Summary, ratios, repeats, take_turns

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
