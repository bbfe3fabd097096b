"""The commands of ``python -m numba_xent``, mostly as a user starts them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import numba_xent
from numba_xent.__main__ import COMMANDS, main

# Runs the package as `python -m` does, after making some modules impossible to import.
RUN_WITHOUT = """
import runpy, sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
runpy.run_module("numba_xent", run_name="__main__", alter_sys=True)
"""

needs_posix = pytest.mark.skipif(os.name != "posix", reason="signals, pipes and terminals of POSIX")


def command_line(*arguments: str, without: Sequence[str] = ()) -> list[str]:
    """Return the command that starts the package, some modules made impossible to import."""
    start = ["-c", RUN_WITHOUT, ",".join(without)] if without else ["-m", "numba_xent"]
    return [sys.executable, *start, *arguments]


def environment(**changes: str) -> dict[str, str]:
    """Return variables under which any folder finds this very package."""
    package = Path(numba_xent.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(package), "PYTHONIOENCODING": "utf-8", **changes}


def run(
    *arguments: str, cwd: Path, without: Sequence[str] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the package in a process of its own."""
    return subprocess.run(
        command_line(*arguments, without=without),
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def without_timings(output: str) -> str:
    """Drop the lines that differ from run to run."""
    return re.sub(r"^(First call|Speed).*\n", "", output, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """Run the demo without any option, on one thread."""
    folder = tmp_path_factory.mktemp("demo")
    return run("demo", cwd=folder, NUMBA_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")


def test_demo_learns_to_read_digits(default_run: subprocess.CompletedProcess[str]) -> None:
    """The whole story: data, epochs, accuracy, speed."""
    assert default_run.returncode == 0, default_run.stderr
    lines = default_run.stdout.splitlines()
    assert lines[0] == "Training on the bundled digits: 1,797 examples of 8x8 features, 10 classes."
    epochs = [line for line in lines if re.fullmatch(r" +\d+ +\d\.\d{4} +\d+\.\d\d%", line)]
    assert [int(line.split()[0]) for line in epochs] == list(range(1, 21))
    losses = [float(line.split()[1]) for line in epochs]
    assert losses[-1] < losses[4] < losses[0]
    (result,) = (line for line in lines if line.startswith("Held-out accuracy"))
    accuracy, right, total = re.findall(r"\d[\d.]*", result)
    assert float(accuracy) >= 95
    assert float(accuracy) == pytest.approx(100 * int(right) / int(total), abs=0.005)
    assert any(re.match(r"Speed: [\d,]+ examples per second", line) for line in lines)
    assert any(re.match(r"First call of the loss: [\d.]+ s", line) for line in lines)


def test_demo_output_is_calm(default_run: subprocess.CompletedProcess[str]) -> None:
    """Plain text that fits a terminal, and no progress bar outside of one."""
    assert default_run.stderr == ""
    assert default_run.stdout.isascii()
    assert "\r" not in default_run.stdout
    assert max(len(line) for line in default_run.stdout.splitlines()) <= 80


def test_demo_confusion_matrix_adds_up(default_run: subprocess.CompletedProcess[str]) -> None:
    """The matrix counts what the accuracy counts."""
    table = default_run.stdout.partition("Confusion matrix")[2].splitlines()[3:]
    cells = [line.split()[1:11] for line in table]
    counts = np.array([[0 if cell == "." else int(cell) for cell in row] for row in cells])
    assert counts.shape == (10, 10)
    right, total = re.findall(r"(\d+) of (\d+) right", default_run.stdout)[0]
    assert (counts.trace(), counts.sum()) == (int(right), int(total))


def test_demo_prints_the_same_on_any_number_of_threads(
    default_run: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    """Timings aside, a seed fixes every character."""
    again = run("demo", cwd=tmp_path, NUMBA_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2")
    assert again.returncode == 0, again.stderr
    assert without_timings(again.stdout) == without_timings(default_run.stdout)


def test_demo_needs_neither_tqdm_nor_matplotlib(
    default_run: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    """The optional packages change nothing in the text."""
    bare = run("demo", cwd=tmp_path, without=["tqdm", "matplotlib"])
    assert bare.returncode == 0, bare.stderr
    assert bare.stderr == ""
    assert without_timings(bare.stdout) == without_timings(default_run.stdout)


def test_plot_without_matplotlib_fails_before_the_training(tmp_path: Path) -> None:
    """The message says what to install."""
    bare = run("demo", "--plot", "plot.png", cwd=tmp_path, without=["matplotlib"])
    assert bare.returncode == 2
    assert bare.stdout == ""
    assert bare.stderr == (
        "python -m numba_xent demo: error: --plot needs matplotlib, which is not installed: "
        'pip install "numba_xent[plot]"\n'
    )


def test_demo_with_all_options(tmp_path: Path) -> None:
    """The user's own data, in an awkward environment: ascii, and a backend with windows."""
    labels = np.arange(90) % 3
    np.savez(tmp_path / "möbel.npz", x=np.eye(3)[labels] + np.arange(90)[:, None] / 90, y=labels)
    options = ["--epochs=3", "--batch-size=7", "--seed=5", "--label-smoothing=0.2"]
    done = run(
        *("demo", *options, "--data=möbel.npz", "--plot=plot.png"),
        cwd=tmp_path,
        PYTHONIOENCODING="ascii",
        MPLBACKEND="tkagg",  # needs a display,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Training on m\\xf6bel.npz: 90 examples of 3 features, 3 classes."
    assert "batches of 7, label smoothing 0.2, seed 5" in lines[1]
    assert len(re.findall(r"^ +\d+ +\d\.\d{4} ", done.stdout, re.MULTILINE)) == 3
    assert lines[-1] == "Plot written to plot.png."
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@needs_posix
def test_interrupt_is_quiet(tmp_path: Path) -> None:
    """Ctrl-C is no traceback."""
    with _endless_demo(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert errors == "interrupted\n"
    assert process.returncode == 130


@needs_posix
def test_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """As in `... demo | head -1`."""
    with _endless_demo(tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.wait(timeout=60)
        assert process.stderr.read() == ""
    assert process.returncode == 141


def _endless_demo(cwd: Path) -> subprocess.Popen[str]:
    """Start a demo and wait until it is in the middle of its training."""
    process = subprocess.Popen(
        command_line("demo", "--epochs=1000000000"),
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("    1"):
            return process
    raise RuntimeError(process.communicate()[1])


@needs_posix
@pytest.mark.parametrize("without", [[], ["tqdm"]], ids=["tqdm", "plain"])
def test_progress_bar_leaves_nothing_behind(without: list[str], tmp_path: Path) -> None:
    """What stays on the screen is what a file would hold."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", x=rng.normal(size=(4000, 500)), y=np.arange(4000) % 50)
    output = _run_in_terminal(
        command_line("demo", "--data=noise.npz", "--epochs=3", without=without), tmp_path
    )
    assert "training" in output
    assert "%" in output
    screen = [_shown(line) for line in output.replace("\r\n", "\n").split("\n")]
    start = screen.index("epoch      loss   held-out accuracy")
    for number, line in enumerate(screen[start + 1 : start + 4], start=1):
        assert re.fullmatch(rf"    {number}  +\d\.\d{{4}} +\d+\.\d\d%", line)
    assert screen[start + 4] == ""
    assert screen[start + 5].startswith("Held-out accuracy")
    assert max(len(line) for line in screen) <= 80


def _run_in_terminal(command: list[str], cwd: Path) -> str:
    import pty  # noqa: PLC0415 - POSIX has it, Windows has not
    import termios  # noqa: PLC0415

    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    with subprocess.Popen(
        command, cwd=cwd, env=environment(), stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        chunks = []
        try:
            while chunk := os.read(controller, 65536):
                chunks.append(chunk)
        except OSError:  # how Linux says that the last writer has gone
            pass
        finally:
            os.close(controller)
    assert process.returncode == 0
    return b"".join(chunks).decode()


def _shown(line: str) -> str:
    """Return what a terminal shows of a line with carriage returns."""
    shown = ""
    for written in line.split("\r"):
        shown = written + shown[len(written) :]
    return shown.rstrip()


def test_info_prints_the_configuration(tmp_path: Path) -> None:
    """All names of `show_config`, in its order."""
    done = run("info", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    config: object = numba_xent.show_config()
    if isinstance(config, Mapping):
        assert [line.partition(":")[0] for line in lines] == list(config)
    assert any(re.match(r"numba\b.*\d+\.\d+", line) for line in lines)


def test_info_aligns_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values start in one column."""
    monkeypatch.setattr(numba_xent, "show_config", lambda: {"a": 1, "longer name": "two"})
    assert main(["info"]) == 0
    assert capsys.readouterr().out == "a:           1\nlonger name: two\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A command without help would be missed."""
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    output = capsys.readouterr().out
    assert {"bench", "demo", "info"} <= {command.name for command in COMMANDS}
    for command in COMMANDS:
        assert re.search(rf"^ +{command.name} +{re.escape(command.summary)}$", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["demo", "--epochs", "0"], "--epochs: '0' is not a whole number of at least 1"),
        (["demo", "--epochs", "2.5"], "--epochs: '2.5' is not a whole number of at least 1"),
        (["demo", "--batch-size", "-1"], "--batch-size: '-1' is not a whole number of at least 1"),
        (["demo", "--seed", "-1"], "--seed: '-1' is not a whole number of at least 0"),
        (["demo", "--label-smoothing", "1"], "'1' is not a number P with 0 <= P < 1"),
        (["demo", "--label-smoothing", "-0.1"], "'-0.1' is not a number P with 0 <= P < 1"),
        (["demo", "--label-smoothing", "nan"], "'nan' is not a number P with 0 <= P < 1"),
        (["demo", "--label-smoothing", "much"], "'much' is not a number P with 0 <= P < 1"),
    ],
)
def test_invalid_options(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line names the option and what it must be."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_user_error_is_one_line(tmp_path: Path) -> None:
    """Even for a file name of two lines."""
    done = run("demo", "--data", "no such\nfile.npz", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "python -m numba_xent demo: error: no such file.npz: No such file or directory\n"
    )


def test_too_little_memory_is_a_user_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Huge data is the user's choice, not a bug."""

    def fail(*_arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("numba_xent._demo.run.split", fail)
    assert main(["demo"]) == 2
    assert "demo: error: not enough memory for that many examples" in capsys.readouterr().err
