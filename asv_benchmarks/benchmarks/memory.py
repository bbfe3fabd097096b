"""The peak of memory of a whole process, compiled code and operands included.

What one call adds, to the byte, is in :mod:`.figures`; here is what the system would say.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .calls import make_call
from .registry import DEFAULTS, SPARSE, V2

_LARGE = "8192 x [4096]"  # 128 MiB: beside it, Python and its libraries are small
_COMPILE = """
import sys
sys.path.insert(0, sys.argv[1])
from benchmarks.memory import call
call(*sys.argv[2:], "256 x [4096]")()
"""


def call(function: str, of: str, logits: str = _LARGE) -> object:
    """Make the call whose memory is measured, or one that needs the same code."""
    return make_call({**DEFAULTS, "function": function, "of": of, "logits": logits})


class PeakMemory:
    """Peak resident memory of a process that makes one call."""

    version = "1"
    unit = "bytes"
    timeout = 300.0
    params = ((V2, SPARSE), ("value", "new gradient"))
    param_names = ("function", "of")

    def setup(self, function: str, of: str) -> None:
        """Compile in another process: a compiler takes more memory than what it compiles."""
        here = Path(__file__).parents[1]
        subprocess.run([sys.executable, "-P", "-c", _COMPILE, str(here), function, of], check=True)
        self.call = call(function, of)

    def peakmem_call(self, function: str, of: str) -> None:
        """Call once."""
        self.call()  # type: ignore[operator]
