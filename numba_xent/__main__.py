"""The commands that come with the library: ``python -m numba_xent COMMAND``.

A new command is one more entry in `COMMANDS`: a name, a line of help, a function that adds its
options and a function that runs it. The running function does its own imports, so that no command
pays for another.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from numba_xent._bench.options import add_bench_options
from numba_xent._demo.options import add_demo_options
from numba_xent._warmup import WarmupError, add_warmup_options, run_warmup

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C
EXIT_BROKEN_PIPE = 141  # likewise for a program whose reader went away


class UserError(Exception):
    """What the user asked for cannot be done; the message is all they need to see."""


class Command(NamedTuple):
    """One subcommand of ``python -m numba_xent``."""

    name: str
    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def _run_demo(options: argparse.Namespace) -> None:
    from numba_xent._demo import DemoError  # noqa: PLC0415 - as `COMMANDS` wants it
    from numba_xent._demo.run import run_demo  # noqa: PLC0415

    try:
        run_demo(options)
    except DemoError as error:
        raise UserError(str(error)) from error


def _run_bench(options: argparse.Namespace) -> None:
    from numba_xent._bench import BenchError  # noqa: PLC0415
    from numba_xent._bench.run import run_bench  # noqa: PLC0415

    try:
        run_bench(options)
    except BenchError as error:
        raise UserError(str(error)) from error


def _run_info(_options: argparse.Namespace) -> None:
    from numba_xent import show_config  # noqa: PLC0415

    config: object = show_config()
    print(_aligned(config) if isinstance(config, Mapping) else config)


def _run_warmup(options: argparse.Namespace) -> None:
    try:
        run_warmup(options)
    except WarmupError as error:
        raise UserError(str(error)) from error


def _aligned(config: Mapping[str, object]) -> str:
    """Format a mapping as ``name: value`` lines whose values start in one column."""
    width = max(len(name) for name in config) + 1
    return "\n".join(f"{name + ':':<{width}} {value}" for name, value in config.items())


def _no_options(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""


COMMANDS = (
    Command("demo", "train a classifier of handwritten digits", add_demo_options, _run_demo),
    Command(
        "bench", "measure speed, against memory and other libraries", add_bench_options, _run_bench
    ),
    Command("info", "print what a bug report needs", _no_options, _run_info),
    Command(
        "warmup", "compile now what first calls would compile", add_warmup_options, _run_warmup
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status of the process.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line after the program's name; by default that of this process.

    Returns
    -------
    int
        0, 2 for a user's error, 130 after Ctrl-C, or 141 when nobody reads the output.
    """
    parser = argparse.ArgumentParser(
        prog="python -m numba_xent",
        description="Softmax cross-entropy for arrays, value and gradient.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=f"{command.summary.capitalize()}.",
        )
        command.add_options(subparser)
        subparser.set_defaults(run=command.run)
    options = parser.parse_args(arguments)

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name the terminal cannot show is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options.run(options)
        sys.stdout.flush()
    except UserError as error:
        message = " ".join(str(error).splitlines())
        print(f"{parser.prog} {options.command}: error: {message}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on its way out; give it somewhere harmless to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
