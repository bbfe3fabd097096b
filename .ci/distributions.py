"""Check what the wheel and the sdist in a folder carry, and that another build has made the same.

python .ci/distributions.py FOLDER [OTHER]
"""

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


def differences(folder: str, other: str) -> list[str]:
    """What is not the same, byte for byte, in two folders."""
    names = {file.name for each in (folder, other) for file in Path(each).iterdir()}
    return [
        f"{name} is not the same in {folder} and {other}"
        for name in sorted(names)
        if len({_content(Path(each) / name) for each in (folder, other)}) > 1
    ]


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def main(folder: str, other: str | None = None) -> int:
    """Print what is missing or differs; 1 if anything does."""
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
    if other is not None:
        missing += differences(folder, other)
    print("\n".join(missing) or "wheel and sdist are complete")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
