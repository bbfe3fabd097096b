"""What the benchmark says in the terminal: a table for each section."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from numba_xent._bench.peers import Peer
from numba_xent._bench.results import OURS, Measurement

GAP = "  "
BUSY = 0.5  # programs that run besides, on average over a minute
PIVOT = [(labels, of) for labels in ("dense", "sparse") for of in ("value", "gradient")]


class Column(NamedTuple):
    """A column: what stands above it, its width (negative to align left), and its text."""

    title: str
    width: int
    text: Callable[[Measurement], str]


def significant(x: float) -> str:
    """Return a number with about as many digits as a timing has."""
    for limit, decimals in ((1, 3), (10, 2), (100, 1)):
        if abs(x) < limit:
            return f"{x:.{decimals}f}"
    return f"{x:.0f}"


def _speed(name: str) -> Callable[[Measurement], str]:
    return lambda m: f"{m.speed[name].median:.2f}" if name in m.speed else "-"


_PROBLEM = Column("problem", -15, lambda m: m.task.case.name)
_DTYPE = Column("dtype", -8, lambda m: m.task.case.dtype)
_LABELS = Column("labels", -6, lambda m: m.task.labels)
_OF = Column("of", -8, lambda m: m.task.of)
_OPTION = Column("option", -16, lambda m: m.task.option)
_MS = Column("ms", 8, lambda m: significant(m.ours * 1e3))
_RATE = Column("GB/s", 6, lambda m: f"{m.nbytes / m.ours / 1e9:.1f}")
_PROBE = Column("probe", 5, _speed("probe"))
_ROW = Column(
    "ns/row", 8, lambda m: significant(m.ours * 1e9 * m.task.case.classes / m.task.case.logits)
)
_LOGIT = Column("ns/logit", 8, lambda m: f"{m.ours * 1e9 / m.task.case.logits:.3f}")
_BASE = (_PROBLEM, _DTYPE, _LABELS, _OF)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "throughput": (*_BASE, _MS, _RATE, _PROBE, _ROW),
    "halves": (*_BASE, _MS, _RATE, _PROBE, Column("x float32", 9, _speed("float32"))),
    "cache": (
        *_BASE,
        _MS,
        Column("ns/16 logits", 12, lambda m: f"{m.ours * 16e9 / m.task.case.logits:.2f}"),
    ),
    "options": (*_BASE, _OPTION, _MS, Column("x none", 6, _speed("no option"))),
    "threads": (
        *_BASE,
        Column("threads", 7, lambda m: str(m.threads)),
        _MS,
        Column("x 1 thread", 10, _speed("1 thread")),
    ),
    "flat": (*_BASE, _MS, _LOGIT, _PROBE),
    "latency": (*_BASE, Column("us", 7, lambda m: significant(m.ours * 1e6))),
}
"""The columns of each section whose table has a row per measurement."""

TITLES = {
    "throughput": "Throughput; probe: fraction of the speed of moving the same bytes",
    "few": "Few classes: fraction of the speed of moving the same bytes",
    "halves": "Halves; x float32: how many times as fast as float32",
    "cache": "In the caches",
    "options": "Options of the losses; x none: speed compared with no option",
    "threads": "Threads; x 1 thread: how many times as fast as one thread",
    "flat": "From few long rows to many short ones",
    "latency": "Latency",
    "peers": "Other libraries: milliseconds of each; x best: how many times as fast we are",
}


def header(section: str, peers: Sequence[Peer] = ()) -> list[str]:
    """Return the lines above the rows of a section."""
    if section == "few":
        titles = [_fit("classes", 7), *(_fit(f"{a} {b}", 15) for a, b in PIVOT)]
    elif section == "peers":
        titles = [_fit(c.title, c.width) for c in (_PROBLEM, _LABELS, _OF)]
        titles += [_fit(name, 8) for name in ("ours", *(p.name for p in peers), "x best")]
    else:
        titles = [_fit(column.title, column.width) for column in COLUMNS[section]]
    return ["", f"{TITLES[section]}.", "", GAP.join(titles).rstrip()]


def rows(section: str, measurements: Sequence[Measurement]) -> list[str]:
    """Return the rows of some measurements of one case, in a section other than peers."""
    if section != "few":
        return [
            GAP.join(_fit(column.text(m), column.width) for column in COLUMNS[section])
            for m in measurements
        ]
    fractions = {(m.task.labels, m.task.of): _PROBE.text(m) for m in measurements}
    cells = [_fit(str(measurements[0].task.case.classes), 7)]
    return [GAP.join([*cells, *(_fit(fractions.get(key, "-"), 15) for key in PIVOT)])]


def peer_rows(measurements: Sequence[Measurement], peers: Sequence[Peer]) -> list[str]:
    """Return the rows of the section peers.

    Parameters
    ----------
    measurements : sequence of Measurement
        One for each task and peer that could do it, in any order.
    peers : sequence of Peer
        The columns; a dash stands for a peer that could not.

    Returns
    -------
    list of str
        A row for each task: milliseconds, ours as the median over all peers' rounds, and our speed
        against the fastest of the others.
    """
    order = {m.task: i for i, m in enumerate(reversed(measurements))}
    lines = []
    by_task = sorted(measurements, key=lambda m: -order[m.task])
    for _, group in groupby(by_task, key=lambda m: m.task):
        of_task = list(group)
        others = {name: m for m in of_task for name in m.speed}
        ours = sorted(seconds for m in of_task for seconds in m.seconds[OURS].rounds)
        best = min(m.against.median for m in of_task)
        cells = [_fit(c.text(of_task[0]), c.width) for c in (_PROBLEM, _LABELS, _OF)]
        cells.append(_fit(significant(ours[len(ours) // 2] * 1e3), 8))
        for peer in peers:
            text = "-"
            if peer.name in others:
                text = significant(others[peer.name].seconds[peer.name].median * 1e3)
            cells.append(_fit(text, 8))
        lines.append(GAP.join([*cells, _fit(f"{best:.2f}", 8)]))
    return lines


def describe_run(machine: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Say what is measured and where, and warn of a busy machine."""
    threads = settings["threads"]
    load = machine["load"]
    busy = (
        f"\nOther programs are busy here, load {load}: no number will be right"
        if load and load > BUSY
        else ""
    )
    return (
        f"numba_xent {machine['numba_xent']}, Numba {machine['numba']}, NumPy {machine['numpy']}, "
        f"Python {machine['python']}\n"
        f"{machine['cpu_model']} ({machine['cpu']}), {threads} thread{'s' if threads > 1 else ''}, "
        f"{settings['rounds']} rounds; all numbers are medians{busy}"
    )


def _fit(text: str, width: int) -> str:
    return f"{text:<{-width}}" if width < 0 else f"{text:>{width}}"
