"""Validate the docstring of every public object with numpydoc."""

from __future__ import annotations

import inspect
import sys

from numpydoc.validate import validate

import numba_xent

# Not every object needs an extended summary (ES01) or relatives (SA01).
IGNORED = {"ES01", "SA01"}


def public_objects() -> list[str]:
    """The import names of all public functions and classes, and of the classes' methods."""
    names = ["numba_xent.value_and_grad", "numba_xent.show_config"]
    for module in (numba_xent.nn, numba_xent.losses):
        for name in module.__all__:
            path = f"{module.__name__}.{name}"
            names.append(path)
            value = getattr(module, name)
            if inspect.isclass(value):
                names += [
                    f"{path}.{method}"
                    for method, function in inspect.getmembers(value, inspect.isroutine)
                    if not method.startswith("_") and method in vars(value)
                ]
    return names


def main() -> int:
    """Print what is wrong with each docstring; 1 if anything is."""
    faults = [
        f"{name}: {code} {text}"
        for name in public_objects()
        for code, text in validate(name)["errors"]
        if code not in IGNORED
    ]
    print("\n".join(faults) or f"{len(public_objects())} docstrings are complete")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
