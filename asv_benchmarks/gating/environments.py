"""Revisions of the repository, each installed in a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from gating import GateError

BESIDES = ("asv_runner", "ml_dtypes")
"""What the worker and the benchmarks need besides the package."""

CUDA = ("[cuda]", "nvidia-cuda-nvdisasm>=13") if sys.platform == "linux" else ("",)
"""The package's extra for the compiler of CUDA kernels, and what reads their machine code."""


class Environment(NamedTuple):
    """An installed revision.

    Attributes
    ----------
    revision
        As the user named it.
    commit
        Its full hash.
    folder
        Where everything of it is.
    """

    revision: str
    commit: str
    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        scripts = "Scripts" if sys.platform == "win32" else "bin"
        return self.folder / "venv" / scripts / "python"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of its processes, and of those that they start.

        Whatever lies in the current folder or on our path must not be taken for the revision.
        """
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        cache = str(self.folder / "cache")
        return {**kept, "PYTHONSAFEPATH": "1", "NUMBA_CACHE_DIR": cache}


def find(repository: Path, revision: str, folder: Path) -> Environment:
    """Find what a revision is, and where it is to be installed.

    Raises
    ------
    GateError
        If there is no such revision.
    """
    done = _git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if done.returncode:
        raise GateError(f"{revision} is no revision of {repository}")
    commit = done.stdout.decode().strip()
    return Environment(revision, commit, folder / commit[:16])


def install(repository: Path, environment: Environment) -> None:
    """Install a revision, unless that has been done before.

    Raises
    ------
    GateError
        If it cannot be installed; the message has the end of what pip said.
    """
    ready = environment.folder / "ready"
    if ready.exists():
        return
    shutil.rmtree(environment.folder, ignore_errors=True)
    source = environment.folder / "source"
    source.mkdir(parents=True)
    archive = _git(repository, "archive", "--format=tar", environment.commit).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(source, filter="data")
    _run(environment, [sys.executable, "-m", "venv", str(environment.folder / "venv")])
    pip = [str(environment.python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    extra, *tools = CUDA
    _run(environment, [*pip, "install", f"{source}{extra}", *tools, *BESIDES])
    ready.touch()


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", "-C", str(repository), *arguments], capture_output=True, check=False
    )


def _run(environment: Environment, command: Sequence[str]) -> None:
    done = subprocess.run(
        command, env=environment.variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise GateError(f"{environment.revision} cannot be installed: {end}")
