"""Python processes of their own, in which this very package is found."""

import os
import subprocess
import sys
from pathlib import Path

import numba_xent

# Where pip puts libtbb, which the loader does not search.
LIBRARIES = str(Path(sys.prefix) / "lib")


def environment(**variables: str) -> dict[str, str]:
    """Variables under which a process finds the package, the tests and every threading layer."""
    paths = [Path(numba_xent.__file__).parents[1], Path(__file__).parent]
    libraries = [LIBRARIES, os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        **variables,
    }


def ended(code: str, *, timeout: float = 280, **variables: str) -> subprocess.CompletedProcess:
    """Run some code in a fresh interpreter and return how that ended, and what it printed."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


def python(code: str, *, timeout: float = 280, quiet: bool = False, **variables: str) -> str:
    """Run some code and return what it prints; fail if it fails, hangs or, if `quiet`, warns."""
    done = ended(code, timeout=timeout, **variables)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    assert not quiet or done.stderr == "", done.stderr
    return done.stdout
