"""What ``python -m numba_xent bench`` measured, as tables of the performance page.

``{machine}`` describes where and how, ``{measurements} section`` is the table of a section. All of
it comes from ``performance/measurements.json``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import chart
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import ConfigError
from sphinx.util.docutils import SphinxDirective

from numba_xent._bench import report
from numba_xent._bench.peers import PEERS
from numba_xent._bench.results import Measurement, Saved, load_json


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> nodes.container:
    """A table that scrolls within itself; all but the first columns hold numbers."""
    group = nodes.tgroup(cols=len(titles))
    group += [nodes.colspec(colwidth=1) for _ in titles]
    head, body = nodes.thead(), nodes.tbody()
    group += [head, body]
    for section, lines in ((head, [titles]), (body, rows)):
        for line in lines:
            row = nodes.row()
            for i, text in enumerate(line):
                entry = nodes.entry(classes=[] if i < words else ["number"])
                entry += nodes.paragraph(text=text)
                row += entry
            section.append(row)
    node = nodes.table(classes=["measured"])
    node += group
    outer = nodes.container(classes=["pst-scrollable-table-container"])
    outer += node
    return outer


class Measured(SphinxDirective):
    """A directive that shows something of the file."""

    def load(self) -> Saved:
        """The file's content; the page is read again when it changes."""
        self.env.note_dependency(str(chart.DATA))
        return load_json(chart.DATA)


class Machine(Measured):
    """Where the measurements were made, and a warning if they are not to be quoted."""

    def run(self) -> list[nodes.Node]:
        """Return a table, and perhaps a warning."""
        machine, settings, _, _ = self.load()
        rows = [
            ("processor", f"{machine['cpu_model']} ({machine['cpu']})"),
            ("threads", f"{settings['threads']} of {machine['cores']}"),
            ("system", machine["platform"]),
            (
                "versions",
                ", ".join(
                    f"{title} {machine[key]}"
                    for title, key in (
                        ("numba_xent", "numba_xent"),
                        ("Python", "python"),
                        ("NumPy", "numpy"),
                        ("Numba", "numba"),
                        ("llvmlite", "llvmlite"),
                    )
                ),
            ),
            ("threading layer", machine["threading_layer"]),
            ("rounds", f"{settings['rounds']}; all numbers are medians over them"),
        ]
        result: list[nodes.Node] = [table(("", "the machine and the run"), rows, 2)]
        if settings["quick"]:
            warning = nodes.warning()
            warning += nodes.paragraph(
                text="These are figures of a quick run: problems so small that they stay in the "
                "caches, three rounds. They show what the charts look like, and are not to be "
                "quoted."
            )
            result.insert(0, warning)
        return result


class Measurements(Measured):
    """The table of a section."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"columns": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Return the table, or a sentence if the section was not measured."""
        section = self.arguments[0]
        chosen = [m for m in self.load().measurements if m.task.section == section]
        if not chosen:
            return [nodes.paragraph(text="This section was not measured in this run.")]
        if section == "peers":
            return [peers_table(chosen)]
        columns = report.COLUMNS[section]
        rows = [[column.text(m) for column in columns] for m in chosen]
        words = sum(column.width < 0 for column in columns)
        return [table([column.title for column in columns], rows, words)]


def peers_table(measurements: Sequence[Measurement]) -> nodes.container:
    """Milliseconds of each library, and our speed against the fastest of the others."""
    measured = {name for m in measurements for name in m.speed}
    names = [peer.name for peer in PEERS if peer.name in measured]
    rows = []
    for task in dict.fromkeys(m.task for m in measurements):
        of_task = [m for m in measurements if m.task == task]
        seconds = {name: m.seconds[name].median for m in of_task for name in m.speed}
        rows.append(
            [
                task.case.name,
                task.labels,
                task.of,
                report.significant(statistics.median(m.ours for m in of_task) * 1e3),
                *(
                    report.significant(seconds[name] * 1e3) if name in seconds else "-"
                    for name in names
                ),
                f"{min(m.against.median for m in of_task):.2f}",
            ]
        )
    return table(("problem", "labels", "of", "ours", *names, "x best"), rows, 3)


def check_headline(app: Sphinx) -> None:
    """Refuse a chart of the README that was drawn from other measurements."""
    for theme in ("light", "dark"):
        drawn = Path(app.srcdir) / "performance" / f"speed-{theme}.svg"
        if not drawn.is_file() or chart.digest() not in drawn.read_text("utf-8"):
            raise ConfigError(
                f"{drawn.name} does not show measurements.json: python docs/measure.py --draw"
            )


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives, and check the chart of the README."""
    app.add_directive("machine", Machine)
    app.add_directive("measurements", Measurements)
    app.connect("builder-inited", check_headline)
    return {"parallel_read_safe": True}
