"""Python processes of their own, in which this very package is found."""

import os
import subprocess
import sys
from pathlib import Path

import numba_xent


def python(code: str, *, timeout: float = 150, **variables: str) -> str:
    """Run some code in a fresh interpreter and return what it prints; fail if it fails or hangs."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(numba_xent.__file__).parents[1]), **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    return done.stdout
