"""Measure what the performance page and the README show: ``python docs/measure.py``.

Runs ``python -m numba_xent bench`` with the options that follow (by default ``--all --peers``, on a
machine that does nothing else and with the other libraries installed), and draws the chart of the
README; ``--draw`` only draws. The site draws all others when it is built.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import chart
import inks
import matplotlib as mpl

DEFAULT = ["--all", "--peers"]


def shortened(measured: str) -> str:
    """What was measured, without single rounds and without what concerns nobody else."""
    data = json.loads(measured)
    data["machine"].pop("cache", None)
    for measurement in data["measurements"]:
        for summary in (*measurement["seconds"].values(), *measurement["speed"].values()):
            summary["rounds"] = []
    return json.dumps(data, indent=1) + "\n"


def main(options: list[str]) -> None:
    """Measure, unless only the chart is wanted, and draw."""
    if options != ["--draw"]:
        command = [sys.executable, "-m", "numba_xent", "bench", *(options or DEFAULT)]
        subprocess.run([*command, "--json", str(chart.DATA)], check=True)
        chart.DATA.write_text(shortened(chart.DATA.read_text("utf-8")), "utf-8")
    with mpl.rc_context(inks.STYLE):
        for path in inks.save(chart.headline(), chart.FOLDER / "speed", note=chart.digest()):
            print(f"Drawn: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
