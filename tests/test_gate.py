"""The gate, all of it, on a copy of the repository.

The proof: a commit that slows a kernel by 30 %, one that copies the logits, and one that changes
nothing.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import gate
import pytest
from gating import GateError, environments

ROOT = Path(gate.__file__).resolve().parents[1]


def git(folder: Path, *arguments: str) -> str:
    """Run git, as somebody."""
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def make_repository(folder: Path, files: dict[str, str]) -> Path:
    """Make a repository with one commit."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def commit(folder: Path) -> str:
    """Commit everything."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=A change")
    return git(folder, "rev-parse", "HEAD")


def test_no_such_revision(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nor is that."""
    repository = make_repository(tmp_path / "r", {"a.txt": "1"})
    options = [f"--repository={repository}", f"--environments={tmp_path}"]
    assert gate.main(["HEAD", "no-such-thing", *options]) == gate.FAILED
    assert "gate.py: error: no-such-thing is no revision of" in capsys.readouterr().err


def test_a_revision_that_cannot_be_installed(tmp_path: Path) -> None:
    """What pip says is told, and the next attempt begins anew."""
    repository = make_repository(tmp_path / "r", {"a.txt": "1"})
    environment = environments.find(repository, "HEAD", tmp_path / "e")
    for _ in range(2):
        with pytest.raises(GateError, match=r"HEAD cannot be installed: .*not installable"):
            environments.install(repository, environment)


SLOWED = (
    "numba_xent/_cpu/kernels.py",
    """        for item in range(first, last):
            solve(""",
    """        count = last - first
        for number in range(count * 13 // 10 if rows and not dense and not gradient else count):
            if number == count:
                store(work.known, np.int64(-1))
            item = first + number % count
            solve(""",
)
"""Thirty of a hundred units are solved twice, by one kernel."""

COPIED = (
    "numba_xent/_cpu/backend.py",
    "given = (problem.logits, ",
    "given = (problem.logits.copy(), ",
)
NOTHING = ("CHANGELOG.md", "# Changelog\n", "# Changelog\n\nNothing has changed.\n")


class Copy:
    """A copy of this repository as it is here, to which changes are committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tracked = git(ROOT, "ls-files").splitlines()
        files = {name: ROOT / name for name in tracked if (ROOT / name).is_file()}
        for name, path in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
        git(folder, "init", "--quiet")
        self.base = commit(folder)

    def changed(self, change: tuple[str, str, str]) -> str:
        """Commit a change to the base."""
        name, before, after = change
        git(self.folder, "checkout", "--quiet", "--detach", self.base)
        path = self.folder / name
        text = path.read_text("utf-8")
        assert text.count(before) == 1, f"{name} has changed: say anew how to change it"
        path.write_text(text.replace(before, after), "utf-8")
        return commit(self.folder)


def run_gate(copy: Copy, head: str, environments: Path, *options: str) -> tuple[int, str]:
    """Run the command as a user does; its status, and what it printed."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "asv_benchmarks" / "gate.py"),
            copy.base,
            head,
            f"--repository={copy.folder}",
            f"--environments={environments}",
            *options,
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stdout)
    return done.returncode, done.stdout


def rows_of(printed: str) -> dict[str, list[str]]:
    """The labels of a printed table, by verdict."""
    found: dict[str, list[str]] = {}
    for line in printed.splitlines()[1:-1]:
        word, label, *_ = [part for part in line.split("  ") if part]
        found.setdefault(word.strip(), []).append(label.strip())
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_short_form(tmp_path: Path) -> None:
    """A copy of the logits is refused for its bytes alone: nothing is timed, so noise is no matter."""
    copy = Copy(tmp_path / "repository")
    head = copy.changed(COPIED)
    options = ("--bench=figures.Memory.*nn.sparse.*, value",)
    status, printed = run_gate(copy, head, tmp_path / "environments", *options)
    assert status == gate.REFUSED
    sparse = "nn.sparse_softmax_cross_entropy_with_logits"
    assert rows_of(printed) == {"worse": [f"figures.Memory.track_allocated({sparse}, value)"]}
    status, printed = run_gate(copy, copy.base, tmp_path / "environments", *options)
    assert status == gate.PASSED
    assert printed == "passed: 1 the same, 0 changed, nothing slower or worse\n"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_proof(tmp_path: Path) -> None:
    """A slower kernel and a copy are refused and named; no change passes, five times of five."""
    copy = Copy(tmp_path / "repository")
    kept = tmp_path / "environments"

    status, printed = run_gate(copy, copy.changed(SLOWED), kept)
    assert status == gate.REFUSED
    rows = rows_of(printed)
    labels = rows.pop("slower")
    rows.pop("faster", None)
    assert rows == {}
    sparse = "steady.SparseSoftmaxCrossEntropyWithLogits.time_call"
    assert f"{sparse}(value, float32, 2048 x [1000], int64)" in labels
    # The same kernel solves the losses of the other, and nothing else.
    assert all("Sparse" in label and "value" in label for label in labels)

    status, printed = run_gate(copy, copy.changed(COPIED), kept)
    assert status == gate.REFUSED
    rows = rows_of(printed)
    dense = "nn.softmax_cross_entropy_with_logits_v2"
    assert f"figures.Memory.track_allocated({dense}, value)" in rows["worse"]
    assert f"figures.Memory.track_allocated({dense}, gradient)" in rows["worse"]

    unchanged = copy.changed(NOTHING)
    assert [run_gate(copy, unchanged, kept)[0] for _ in range(5)] == [gate.PASSED] * 5
