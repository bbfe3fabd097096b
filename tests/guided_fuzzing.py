"""The same random calls, chosen by what code they reach: needs the package ``atheris``.

python tests/guided_fuzzing.py -runs=100000
"""

from __future__ import annotations

import random
import sys

import atheris

with atheris.instrument_imports(include=["numba_xent"]):
    import numba_xent as xent

import fuzzing

del xent


class Chosen(random.Random):
    """Random numbers that are the bytes of an input, and always the same ones after those."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content, self.used = content, 0
        self.rest = random.Random(0)

    def random(self) -> float:
        """A number in [0, 1)."""
        return self.getrandbits(16) / 2**16

    def getrandbits(self, k: int) -> int:
        """So many bits."""
        if self.used >= len(self.content):
            return self.rest.getrandbits(k)
        size = -(-k // 8)
        taken = self.content[self.used : self.used + size]
        self.used += size
        return int.from_bytes(taken.ljust(size, b"\0"), "little") >> (8 * size - k)


def one(content: bytes) -> None:
    """Make the call that some bytes stand for."""
    call = fuzzing.make(Chosen(content))
    try:
        fuzzing.run(call)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{fuzzing.described(call)}") from None


if __name__ == "__main__":
    atheris.Setup([*sys.argv, "-max_len=400"], one)
    atheris.Fuzz()
