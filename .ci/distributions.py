"""Check that the wheel and the sdist in a folder carry what an installation needs."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

NEEDED = (
    "numba_xent/py.typed",
    "numba_xent/_demo/digits.npz",
    "numba_xent/_demo/DIGITS.md",
    "numba_xent/_math/cross_entropy.py",
    "numba_xent/_cpu/kernels.py",
)


def main(folder: str) -> int:
    """Print what is missing; 1 if anything is."""
    (wheel,) = Path(folder).glob("*.whl")
    (sdist,) = Path(folder).glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as zipped, tarfile.open(sdist) as tarred:
        names = {
            wheel.name: set(zipped.namelist()),
            sdist.name: {name.partition("/")[2] for name in tarred.getnames()},
        }
    missing = [
        f"{archive} lacks {needed}"
        for archive, content in names.items()
        for needed in NEEDED
        if needed not in content
    ]
    print("\n".join(missing) or "wheel and sdist are complete")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
