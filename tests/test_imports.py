"""Imports point one way: from the public functions down to the formulas.

What a module may import is written down here, module by module; the imports are read from the
source, wherever in a file they stand.
"""

import ast
import graphlib
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import numba_xent

PACKAGE = Path(numba_xent.__file__).parent

ALLOWED: dict[str, set[str]] = {
    "": {"cuda", "losses", "nn", "_config", "_version", "autodiff"},
    "autodiff": {"losses", "nn", "_problem", "_arrays"},
    "cuda": {"_cuda"},
    "losses": {
        "nn",
        "_collections",
        "_problem",
        "_weighting",
        "_arrays",
        "_device",
        "_dispatch",
    },
    "nn": {"_problem", "_arrays"},
    "_problem": {"_dispatch", "_device", "_layout", "_weighting", "_arrays"},
    "_dispatch": {"_cpu", "_cuda", "_device", "_process"},
    "_process": set(),
    "_weighting": {"_arrays", "_device"},
    "_layout": set(),
    "_arrays": {"_device", "_recycled"},
    "_device": set(),
    "_recycled": set(),
    "_collections": {"_arrays", "_device", "_dispatch"},
    "_config": {"_dispatch", "_version"},
    "_version": set(),
    "_cpu": {"_cpu", "_math", "_layout", "_arrays", "_process"},
    "_cuda": {"_cuda", "_math", "_layout", "_arrays", "_device", "_weighting"},
    "_math": {"_math"},
    "_demo": {"_demo", "_commandline", "_progress", ""},
    "_bench": {"_bench", "_commandline", "_cpu", "_progress", ""},
    "_commandline": set(),
    "_progress": set(),
    "_warmup": {"_cpu", "_progress", "_arrays", ""},
    "__main__": {"_bench", "_demo", "_warmup", ""},
}
"""For each module of the package ("" is the package itself), which others it may import.

A folder stands for all of its modules.
"""

LAZY = {
    ("cuda", "_cuda"),
    ("_dispatch", "_cpu"),
    ("_dispatch", "_cuda"),
    ("_config", "_dispatch"),
    ("__main__", ""),
    ("_warmup", ""),
    ("_warmup", "_cpu"),
}
"""Imports that must stand inside a function, because they are slow. They are imports all the same."""

TYPING_ONLY = {("_cpu", "_problem"), ("_cuda", "_problem"), ("_warmup", "_cpu")}
"""Imports for type annotations alone, which never run."""

OUTSIDE: dict[str, set[str]] = {
    "_cpu": {"numba", "llvmlite", "numpy"},
    "_cuda": {"cuda", "numba", "llvmlite", "numpy"},
    "cuda": set(),
    "_config": {"numba", "llvmlite", "numpy"},
    "_demo": {"numpy"},
    "_warmup": {"numpy", "ml_dtypes"},
    "_bench": {"numba", "numpy"},
    "_commandline": set(),
    "__main__": set(),
    "_dispatch": set(),
    "_layout": set(),
    "": set(),
}
"""Which distributions a module may import, besides the standard library; else only NumPy."""

MATH = {"fractions", "math", "numpy", "typing", "__future__"}
"""All that the formulas may import, besides one another."""


class Import(NamedTuple):
    """One import: who, what, whether inside a function, whether for types only."""

    importer: str
    imported: str
    lazy: bool
    typing: bool


def _modules(node: ast.Import | ast.ImportFrom, folder: list[str]) -> list[str]:
    """The full names of what an import statement names, as far as they may be modules."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parts = folder[: len(folder) - node.level + 1] if node.level else []
    base = ".".join([*parts, *filter(None, [node.module])])
    return [f"{base}.{alias.name}" for alias in node.names]


def imports_of(package: Path) -> list[Import]:
    """Every import statement of every module of a package, with full names."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        folder = parts[:-1]
        name = ".".join(folder if parts[-1] == "__init__" else parts)

        def visit(node: ast.AST, lazy: bool, typing: bool, name: str = name) -> None:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found.extend(Import(name, full, lazy, typing) for full in _modules(node, folder))  # noqa: B023
            lazy |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for child in ast.iter_child_nodes(node):
                visit(child, lazy, typing or (only and child in getattr(node, "body", [])))

        visit(ast.parse(path.read_text("utf-8")), False, False)
    return found


def room(module: str, package: Path) -> str:
    """The part of the package that a full name belongs to, as the tables name it."""
    parts = module.split(".")[1:]
    if parts and ((package / parts[0]).is_dir() or (package / f"{parts[0]}.py").is_file()):
        return parts[0]
    return ""


def _module_of(name: str, modules: set[str]) -> str:
    """The module of the package that a full name is, or is in; empty if there is none."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def cycle_of(package: Path) -> list[str]:
    """Modules that import each other in a circle, wherever their imports stand; empty if none do.

    Imports that never run count for nothing.
    """
    found = [i for i in imports_of(package) if not i.typing]
    modules = {i.importer for i in found}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for one in found:
        graph[one.importer].add(_module_of(one.imported, modules))
    for module, others in graph.items():
        others -= {module, ""}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def _outside(here: str) -> set[str]:
    """The modules that are not ours and that a module may import."""
    return {*sys.stdlib_module_names, *OUTSIDE.get(here, {"numpy"})}


def faults_of(package: Path) -> list[str]:
    """What the tables forbid and a package does all the same."""
    faults = []
    for importer, imported, lazy, typing in imports_of(package):
        here = room(importer, package)
        root = imported.partition(".")[0]
        said = f"{importer} imports {imported}"
        if root == package.name:
            there = room(imported, package)
            if typing and (here, there) in TYPING_ONLY:
                continue
            if there not in ALLOWED.get(here, set()):
                faults.append(said)
            elif (here, there) in LAZY and not lazy:
                faults.append(f"{said} at once")
        elif root not in (MATH if here == "_math" else _outside(here)):
            faults.append(said)
        elif here == "_config" and root in OUTSIDE["_config"] and not lazy:
            faults.append(f"{said} at once")
    return faults


def test_this_package() -> None:
    """No import goes upwards, sideways or outside, and none in a circle."""
    assert faults_of(PACKAGE) == []
    assert cycle_of(PACKAGE) == []


def test_every_module_has_its_place() -> None:
    """The table names exactly the modules that there are."""
    found = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    found |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found | {""} == set(ALLOWED)


def test_the_chain_is_there() -> None:
    """The checker reads the imports that make the chain from the top to the formulas."""
    seen = {(room(i.importer, PACKAGE), room(i.imported, PACKAGE)) for i in imports_of(PACKAGE)}
    for edge in [
        ("", "losses"),
        ("", "autodiff"),
        ("autodiff", "_problem"),
        ("losses", "nn"),
        ("nn", "_problem"),
        ("_problem", "_dispatch"),
        ("_dispatch", "_cpu"),
        ("_cpu", "_math"),
        ("_cpu", "_layout"),
        ("__main__", "_demo"),
    ]:
        assert edge in seen
    for command in ("_demo", "_bench"):
        importers = {i.importer for i in imports_of(PACKAGE) if command in i.imported}
        assert {name.split(".")[1] for name in importers} == {command, "__main__"}
    assert not [i for i in imports_of(PACKAGE) if "__main__" in i.imported]


TREE = {
    "__init__.py": "from . import losses, nn\n",
    "losses.py": "from .nn import f\nimport numpy as np\n",
    "nn.py": "from ._problem import f\n",
    "_problem.py": "from ._dispatch import f\n",
    "_dispatch.py": "def f():\n    from ._cpu import backend\n",
    "_cpu/__init__.py": "",
    "_cpu/backend.py": (
        "from typing import TYPE_CHECKING\nimport numba\nfrom .._math import half\n"
        "from . import memory\nif TYPE_CHECKING:\n    from .._problem import Problem\n"
    ),
    "_cpu/memory.py": "",
    "_math/__init__.py": "",
    "_math/half.py": "import math\nfrom .primitives import bits\n",
    "_math/primitives.py": "from __future__ import annotations\nimport numpy as np\n",
    "_demo/__init__.py": "",
    "_bench/__init__.py": "",
    "__main__.py": "from numba_xent._demo import run\n",
}


def plant(folder: Path, changes: dict[str, str]) -> Path:
    """Write a small package with some lines added to its modules."""
    package = folder / "numba_xent"
    for name in {*TREE, *changes}:
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TREE.get(name, "") + changes.get(name, ""))
    return package


def test_a_good_tree(tmp_path: Path) -> None:
    """The small package has no fault of its own."""
    assert faults_of(plant(tmp_path, {})) == []
    assert cycle_of(plant(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("_cpu/memory.py", "def f():\n    from .backend import g"),
        ("_cpu/memory.py", "from .. import losses"),
        ("_math/primitives.py", "def f():\n    from . import half"),
        ("nn.py", "def f():\n    import numba_xent"),
        ("_problem.py", "class A:\n    def f(self):\n        from .nn import g"),
    ],
)
def test_a_circle_is_found(tmp_path: Path, module: str, line: str) -> None:
    """Wherever the import that closes it stands."""
    package = plant(tmp_path, {module: line + "\n"})
    name = ".".join(["numba_xent", *Path(module).with_suffix("").parts])
    assert name in cycle_of(package)
    assert (
        cycle_of(
            plant(tmp_path, {module: f"if TYPE_CHECKING:\n    {line.splitlines()[-1].strip()}\n"})
        )
        == []
    )


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        ("nn.py", "from . import losses", "nn imports numba_xent.losses"),
        ("nn.py", "from .losses import f", "nn imports numba_xent.losses.f"),
        ("nn.py", "import numba_xent.losses", "nn imports numba_xent.losses"),
        ("nn.py", "from numba_xent import losses", "nn imports numba_xent.losses"),
        ("nn.py", "def f():\n    import numba_xent", "nn imports numba_xent"),
        ("nn.py", "from ._cpu.backend import f", "nn imports numba_xent._cpu.backend.f"),
        ("nn.py", "import numba", "nn imports numba"),
        ("nn.py", "def f():\n    import torch", "nn imports torch"),
        ("losses.py", "from . import _demo", "losses imports numba_xent._demo"),
        ("losses.py", "from . import _bench", "losses imports numba_xent._bench"),
        ("_bench/run.py", "from .._demo import f", "_bench.run imports numba_xent._demo.f"),
        ("losses.py", "from . import __main__", "losses imports numba_xent.__main__"),
        ("_dispatch.py", "from . import _cpu", "_dispatch imports numba_xent._cpu at once"),
        ("_cpu/memory.py", "from ..nn import f", "_cpu.memory imports numba_xent.nn.f"),
        ("_cpu/memory.py", "from .. import nn", "_cpu.memory imports numba_xent.nn"),
        (
            "_cpu/memory.py",
            "if True:\n    from .._problem import Problem",
            "_cpu.memory imports numba_xent._problem.Problem",
        ),
        ("_math/half.py", "import numba", "_math.half imports numba"),
        ("_math/half.py", "import functools", "_math.half imports functools"),
        ("_math/half.py", "from .._cpu import memory", "_math.half imports numba_xent._cpu.memory"),
        ("_math/half.py", "class A:\n    from .. import nn", "_math.half imports numba_xent.nn"),
        ("new.py", "from . import nn", "new imports numba_xent.nn"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, module: str, line: str, fault: str) -> None:
    """Each forbidden edge is reported, and nothing else."""
    assert faults_of(plant(tmp_path, {module: line + "\n"})) == [f"numba_xent.{fault}"]
