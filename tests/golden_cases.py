"""Loads the recorded TensorFlow cases: argument specifications become Python objects."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

FOLDER = Path(__file__).parent / "golden"
MAIN = "2.21.0"


@functools.cache
def document() -> dict[str, Any]:
    """The whole of cases.json (which holds NaN and Infinity, as Python's json allows)."""
    return json.loads((FOLDER / "cases.json").read_text())


@functools.cache
def arrays() -> dict[str, np.ndarray]:
    """Every array of golden.npz by its key."""
    with np.load(FOLDER / "golden.npz") as stored:
        return {key: stored[key] for key in stored.files}


def array(ref: dict[str, Any]) -> np.ndarray:
    """A fresh copy of the array that `ref` names; bfloat16 is stored as its bits."""
    a = arrays()[ref["key"]]
    if ref["dtype"] == "bfloat16":
        a = a.view(ml_dtypes.bfloat16)
    assert a.dtype.name == ref["dtype"]
    return a.reshape(ref["shape"]).copy()


def argument(spec: dict[str, Any]) -> Any:
    """The Python object that an argument specification describes."""
    ((kind, value),) = spec.items()
    match kind:
        case "array":
            return array(value)
        case "py":
            return value
        case "float":
            return float(value)
        case "npscalar":
            dtype, number = value
            return np.dtype(dtype).type(number)
        case "tuple":
            return tuple(argument(s) for s in value)
    raise ValueError(f"unknown argument specification {spec}")


@dataclass(frozen=True)
class Case:
    """One recorded call; arguments are built anew at each access."""

    raw: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.raw[name]

    @property
    def id(self) -> str:
        """The name of the case."""
        return self.raw["id"]

    @property
    def args(self) -> list[Any]:
        """The positional arguments."""
        return [argument(spec) for spec in self.raw["args"]]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments."""
        return {name: argument(spec) for name, spec in self.raw["kwargs"].items()}

    @property
    def upstream(self) -> np.ndarray | None:
        """The gradient fed in, if there is one."""
        spec = self.raw.get("upstream")
        return None if spec is None else array(spec.get("array", spec))

    def outcome(self, version: str = MAIN) -> dict[str, Any]:
        """What TensorFlow did, with arrays loaded; `same_as` is followed."""
        raw = self.raw["expect"][version]
        if "same_as" in raw:
            return self.outcome(raw["same_as"])
        outcome = dict(raw)
        for name in ("loss", "hvp"):
            if name in outcome:
                outcome[name] = array(outcome[name])
        if "grads" in outcome:
            outcome["grads"] = {
                name: None if ref is None else array(ref) for name, ref in outcome["grads"].items()
            }
        return outcome


@functools.cache
def cases() -> list[Case]:
    """All cases, in the order of the file."""
    return [Case(raw) for raw in document()["cases"]]
