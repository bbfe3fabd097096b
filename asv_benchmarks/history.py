"""The history of the project's speed, as a web site: ``python history.py --html FOLDER``.

Measures the last commits that have not been measured yet, with ``asv run``, and makes the site of
all results with ``asv publish``. Both can be interrupted and started again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
LAST = 20
SELECTED = (
    r"^startup\.Import",
    r"^steady\.Latency.*_v2",
    r"^steady\.SoftmaxCrossEntropyWithLogitsV2.*'(value|gradient)', 'float32', '2048 x",
)
"""What is measured of every commit: little, because each of them compiles for itself."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="history.py",
        description="Measure the last commits and make a web site of all results.",
    )
    parser.add_argument(
        "--last",
        type=int,
        default=LAST,
        metavar="N",
        help="how many commits, along the first parents of HEAD (default: %(default)s)",
    )
    parser.add_argument("--tags", action="store_true", help="the last tags instead of commits")
    parser.add_argument(
        "--bench",
        action="append",
        metavar="REGEX",
        help="what to measure, as of asv; can be repeated (default: some of all)",
    )
    parser.add_argument(
        "--machine",
        default="local",
        help="the name under which asv files this machine's results (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="measure once: only to see it work")
    parser.add_argument(
        "--publish-only", action="store_true", help="measure nothing, use what results there are"
    )
    parser.add_argument(
        "--html",
        type=Path,
        default=HERE / ".asv" / "html",
        metavar="FOLDER",
        help="where to write the site (default: .asv/html)",
    )
    return parser


def revisions(last: int, *, tags: bool) -> list[str]:
    """The hashes of the last commits, or of the commits of the last tags, the newest first."""
    if tags:
        names = _git("tag", "--sort=-creatordate").splitlines()[:last]
        return [_git("rev-parse", f"{name}^{{commit}}").strip() for name in names]
    return _git("rev-list", "--first-parent", f"--max-count={last}", "HEAD").splitlines()


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(HERE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _asv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=HERE, check=True)


def describe_machine(name: str) -> None:
    """Tell asv what this machine is, but neither its name nor that of its kernel."""
    from asv.machine import Machine, MachineCollection  # noqa: PLC0415 - not needed to publish

    known = {**Machine.get_defaults(), "machine": name, "os": platform.system()}
    MachineCollection.save(name, known)


def measure(hashes: Sequence[str], machine: str, bench: Sequence[str], *, quick: bool) -> None:
    """Measure what has not been measured of some commits."""
    describe_machine(machine)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(hashes) + "\n")
        listed.flush()
        # One by one: what was measured of a commit stays if the next is interrupted.
        patterns = [part for pattern in bench for part in ("--bench", pattern)]
        options = ["--machine", machine, "--skip-existing", *patterns]
        _asv("run", *options, *(["--quick"] if quick else []), f"HASHFILE:{listed.name}")
    keep_measured(RESULTS)


def keep_measured(results: Path) -> None:
    """Leave in asv's list of benchmarks what has results: the others would be empty graphs.

    Parameters
    ----------
    results : Path
        The folder of asv's results. Its ``benchmarks.json`` is rewritten, as by each ``asv run``.
    """
    path = results / "benchmarks.json"
    listed: dict[str, Any] = json.loads(path.read_text("utf-8"))
    measured = _measured(results)
    for name in listed.keys() - {"version"}:
        if name not in measured:
            del listed[name]
            continue
        listed[name]["params"] = [
            [word for word in words if word in kept]
            for words, kept in zip(listed[name]["params"], measured[name], strict=True)
        ]
    path.write_text(json.dumps(listed, indent=4, sort_keys=True) + "\n", "utf-8")


def _measured(results: Path) -> dict[str, list[set[str]]]:
    """The benchmarks that have results, and which words of each parameter have."""
    measured: dict[str, list[set[str]]] = {}
    for file in results.glob("*/*-*.json"):
        for name, columns in json.loads(file.read_text("utf-8"))["results"].items():
            values, parameters = columns[:2]  # no values at all if the benchmark has failed
            for value, words in zip(values or (), itertools.product(*parameters), strict=False):
                if value is not None and not math.isnan(value):
                    kept = measured.setdefault(name, [set() for _ in parameters])
                    for of_parameter, word in zip(kept, words, strict=True):
                        of_parameter.add(word)
    return measured


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        0, or the exit status of whatever has failed.
    """
    options = parser().parse_args(arguments)
    try:
        if not options.publish_only:
            hashes = revisions(options.last, tags=options.tags)
            bench = options.bench or SELECTED
            measure(hashes, options.machine, bench, quick=options.quick)
        _asv("publish", "--html-dir", str(options.html.resolve()))
    except subprocess.CalledProcessError as error:
        print(f"history.py: error: {' '.join(error.cmd[:6])} has failed", file=sys.stderr)
        return int(error.returncode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
