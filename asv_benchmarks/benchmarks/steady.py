"""The time of a warm call: one class of asv for each entry of the registry."""

from __future__ import annotations

from typing import Any, ClassVar

from .calls import Call, make_call
from .registry import LATENCY, STEADY, Entry


class _Steady:
    """Times the calls of an entry.

    `setup` compiles: the first call of a process is :mod:`.startup`'s business. asv runs it again
    before each sample, and then finds the call that it has made before.
    """

    entry: ClassVar[Entry]
    version = "1"  # to be raised when what is timed becomes something else
    unit = "seconds"
    timeout = 120.0
    call: Call | None = None

    def setup(self, *words: str) -> None:
        """Make arrays and compile."""
        call = make_call(self.entry.call(*words))
        if call is not self.call:
            self.call = call
            self.call()

    def time_call(self, *_words: str) -> None:
        """Call once."""
        self.call()  # type: ignore[misc]

    def in_gate(self, *words: str) -> bool:
        """Whether the gate takes these."""
        return self.entry.in_gate(*words)


def _class_for(entry: Entry, **attributes: Any) -> type[_Steady]:
    axes = {"params": list(map(list, entry.axes.values())), "param_names": list(entry.axes)}
    members = {"__doc__": entry.summary, "__module__": __name__, "entry": entry}
    return type(entry.name, (_Steady,), {**members, **axes, **attributes})


globals().update({entry.name: _class_for(entry) for entry in STEADY})

# A call of some microseconds is repeated; asv would time each once otherwise.
Latency = _class_for(LATENCY, number=500)
