"""What users see: names, signatures, docstrings, versions, and what an import costs."""

import ast
import contextlib
import inspect
import re
import types
from collections.abc import Callable
from importlib import metadata, resources
from typing import Any

import pytest
from processes import python

import numba_xent as xent

NN = {
    "softmax_cross_entropy_with_logits": (
        "(_sentinel=None, labels=None, logits=None, dim=-1, name=None, axis=None)"
    ),
    "softmax_cross_entropy_with_logits_v2": "(labels, logits, axis=None, name=None, dim=None)",
    "sparse_softmax_cross_entropy_with_logits": (
        "(_sentinel=None, labels=None, logits=None, name=None)"
    ),
}
_LAST = "scope=None, loss_collection='losses', reduction='weighted_sum_by_nonzero_weights')"
LOSSES = {
    "NamedLoss": "(name, value)",
    "Reduction": "()",
    "add_loss": "(loss, loss_collection='losses')",
    "collecting": "()",
    "compute_weighted_loss": f"(losses, weights=1.0, {_LAST}",
    "get_losses": "(scope=None, loss_collection='losses')",
    "get_regularization_loss": "(scope=None, name='total_regularization_loss')",
    "get_regularization_losses": "(scope=None)",
    "get_total_loss": "(add_regularization_losses=True, name='total_loss', scope=None)",
    "softmax_cross_entropy": (f"(onehot_labels, logits, weights=1.0, label_smoothing=0, {_LAST}"),
    "sparse_softmax_cross_entropy": f"(labels, logits, weights=1.0, {_LAST}",
}
TOP = {"show_config": "()", "value_and_grad": "(fn, wrt='logits')"}
PUBLIC = [
    (module, name, signature)
    for module, names in ((xent, TOP), (xent.nn, NN), (xent.losses, LOSSES))
    for name, signature in names.items()
]
LOSS_FUNCTIONS = [
    *(getattr(xent.nn, name) for name in NN),
    xent.losses.softmax_cross_entropy,
    xent.losses.sparse_softmax_cross_entropy,
    xent.losses.compute_weighted_loss,
]


def test_all() -> None:
    """The lists of names are these, sorted, and each name exists."""
    assert xent.__all__ == ["cuda", "losses", "nn", *TOP]
    assert xent.nn.__all__ == list(NN)
    assert xent.losses.__all__ == list(LOSSES)
    assert xent.cuda.__all__ == ["stream"]
    for module in (xent, xent.nn, xent.losses, xent.cuda):
        assert all(hasattr(module, name) for name in module.__all__)


def test_nothing_else_is_public() -> None:
    """Of the package, only its names and modules; dir() of a fresh import shows the same."""
    names = {name for name in vars(xent) if not name.startswith("_")}
    modules = {name for name in names if isinstance(getattr(xent, name), types.ModuleType)}
    assert names - modules == set(TOP)
    assert modules == {"autodiff", "cuda", "losses", "nn"}


@pytest.mark.parametrize("module", [xent.nn, xent.losses, xent.autodiff])
def test_star_imports(module: types.ModuleType) -> None:
    """Helpers of a module are not imported with its names."""
    code = f"from {module.__name__} import *; print([n for n in dir() if n[:2] != '__'])"
    assert ast.literal_eval(python(code)) == sorted(module.__all__)


@pytest.mark.parametrize(("module", "name", "signature"), PUBLIC)
def test_signatures(module: types.ModuleType, name: str, signature: str) -> None:
    """Names, order and defaults are TensorFlow's; annotations aside."""
    found = inspect.signature(getattr(module, name))
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    assert str(inspect.Signature(bare)) == signature


def test_the_default_of_dim_prints_as_documented() -> None:
    """It is known from a -1 that is given, but looks like it."""
    default = inspect.signature(xent.nn.softmax_cross_entropy_with_logits).parameters["dim"].default
    assert repr(default) == str(default) == "-1"
    assert default == -1


SECTION = re.compile(r"^([A-Z][A-Za-z ]+)\n-+$", re.MULTILINE)


def sections(thing: Any) -> dict[str, str]:
    """The sections of a numpydoc docstring."""
    parts = SECTION.split(inspect.getdoc(thing) or "")
    return {"Summary": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.mark.parametrize(("module", "name", "signature"), PUBLIC)
def test_docstrings(module: types.ModuleType, name: str, signature: str) -> None:
    """A summary, every parameter, what is returned, and an example that uses the name."""
    thing = getattr(module, name)
    found = sections(thing)
    assert re.match(r"\S.*\.", found["Summary"])
    parameters = list(inspect.signature(thing).parameters)
    if parameters:
        documented = found["Parameters"]
        heads = re.findall(r"^(\S[^:\n]*?)(?: : |$)", documented, re.MULTILINE)
        assert [n for head in heads for n in head.split(", ")] == parameters
    if not inspect.isclass(thing):
        assert "Yields" in found or "Returns" in found or name == "add_loss"
    if name != "NamedLoss":
        assert ">>> " in found["Examples"]
        assert name in found["Examples"]


@pytest.mark.parametrize("function", LOSS_FUNCTIONS)
def test_docstrings_of_losses(function: Callable) -> None:
    """They say what is raised and where they come from."""
    found = sections(function)
    assert "ValueError" in found["Raises"]
    assert "TypeError" in found["Raises"]
    assert f"tf.compat.v1.{function.__module__.split('.')[-1]}" in found["References"]


def test_docstrings_name_what_is_raised() -> None:
    """Whatever raises by itself says so."""
    for thing in (
        xent.value_and_grad,
        xent.losses.add_loss,
        xent.losses.get_losses,
        xent.losses.get_total_loss,
        xent.losses.get_regularization_loss,
        xent.losses.Reduction.validate,
    ):
        assert "Error" in sections(thing)["Raises"] or "error" in sections(thing)["Raises"]
    for method in ("all", "validate"):
        assert "Examples" in sections(getattr(xent.losses.Reduction, method))


@pytest.mark.parametrize("module", [xent, xent.nn, xent.losses, xent.autodiff])
def test_modules_say_what_they_are(module: types.ModuleType) -> None:
    """In one sentence at least."""
    assert re.match(r"\S.*\.", module.__doc__ or "", re.DOTALL)


def test_type_hints_are_installed() -> None:
    """The marker lies in the package, and every public function is annotated."""
    assert resources.files("numba_xent").joinpath("py.typed").is_file()
    for module, name, _ in PUBLIC:
        thing = getattr(module, name)
        if not inspect.isclass(thing):
            signature = inspect.signature(thing)
            assert signature.return_annotation is not signature.empty
            assert all(p.annotation is not p.empty for p in signature.parameters.values())


def test_version() -> None:
    """That of the installed distribution, if this is one."""
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", xent.__version__)
    with contextlib.suppress(metadata.PackageNotFoundError):
        assert metadata.version("numba_xent") == xent.__version__


def test_show_config() -> None:
    """Everything that a bug report needs, in words and numbers."""
    config = xent.show_config()
    assert set(config) >= {
        "numba_xent",
        "python",
        "numpy",
        "numba",
        "llvmlite",
        "ml_dtypes",
        "platform",
        "cpu",
        "cpu_features",
        "cores",
        "threads",
        "threading_layer",
        "cache",
        "gpu",
    }
    assert all(isinstance(value, (str, int)) for value in config.values())
    assert all(value != "" for value in config.values())
    assert config["numba_xent"] == xent.__version__


FRAMEWORKS = {"tensorflow", "torch", "jax", "cupy", "mxnet", "keras", "sklearn", "pandas"}


def test_import_is_light() -> None:
    """No framework, no compiler, no plotting and no schedules until they are needed."""
    code = "import sys, numba_xent; print(sorted(sys.modules))"
    loaded = set(ast.literal_eval(python(code)))
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & (
        FRAMEWORKS | {"numba", "llvmlite", "scipy", "matplotlib", "tqdm", "ml_dtypes"}
    )
    ours = {name for name in loaded if name.startswith("numba_xent")}
    assert not [name for name in ours if re.match(r"numba_xent\._(cpu|cuda|math|demo)", name)]


def test_a_call_imports_no_framework() -> None:
    """Not even where one is installed; `_cpu` comes with the first call."""
    code = """
import sys, numba_xent
numba_xent.losses.softmax_cross_entropy([[0.0, 1.0]], [[1.0, 2.0]])
print(sorted(sys.modules))
"""
    loaded = set(ast.literal_eval(python(code)))
    assert "numba_xent._cpu.backend" in loaded
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & (FRAMEWORKS | {"matplotlib", "tqdm"})
