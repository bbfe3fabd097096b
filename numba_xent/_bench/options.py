"""The options of ``python -m numba_xent bench``."""

from __future__ import annotations

import argparse
from pathlib import Path

from numba_xent._commandline import positive_int

SECTIONS = {
    "throughput": "large problems against the speed of memory",
    "few": "every class count from 2 to 64",
    "halves": "float16 and bfloat16 against float32",
    "cache": "problems that stay in the caches",
    "options": "weights, smoothing, reductions and broadcast labels against none",
    "threads": "all threads against one",
    "flat": "from one row to ten million, and up to a million classes",
    "latency": "a call of 32 rows",
    "peers": "other libraries, those that are installed",
}
DEFAULT = ("throughput", "halves", "cache", "latency")
ROUNDS, QUICK_ROUNDS = 15, 3


def add_bench_options(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's options to its parser."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "sections:\n" + "\n".join(
        f"  {name:<11} {summary}" for name, summary in SECTIONS.items()
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--only",
        type=_section_names,
        metavar="NAMES",
        help=f"sections to run, separated by commas (default: {','.join(DEFAULT)})",
    )
    which.add_argument("--all", action="store_true", help="run every section but peers")
    parser.add_argument("--peers", action="store_true", help="run the section peers as well")
    parser.add_argument(
        "--quick", action="store_true", help="small problems, to see whether everything works"
    )
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="threads to use (default: all of Numba's)"
    )
    parser.add_argument(
        "--rounds",
        type=positive_int,
        metavar="N",
        help=f"how often each call has its turn (default: {ROUNDS}, or {QUICK_ROUNDS} if quick)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE.json", help="also write everything that was measured"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help='also draw a chart; needs pip install "numba_xent[plot]"',
    )


def chosen_sections(options: argparse.Namespace) -> list[str]:
    """List the sections to run, in the order of `SECTIONS`."""
    chosen = set(SECTIONS) - {"peers"} if options.all else set(options.only or DEFAULT)
    if options.peers:
        chosen.add("peers")
    return [name for name in SECTIONS if name in chosen]


def _section_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(SECTIONS)}")
    return names
