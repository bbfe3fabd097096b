"""Functions that are only ever parts of others, for which Numba makes no code of their own.

Numba optimises every function and turns it into machine code when it is compiled, together with all
that it calls; and again as a part of each function that calls it. A kernel here is a few lines on
top of a hundred small functions on several levels: what is at the bottom would be optimised a dozen
times. These are left as they are, until they have become part of a kernel. That halves the time
that a first call takes without a cache.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import InlineOverloads, NativeLowering, NopythonRewrites
from numba.core.untyped_passes import (
    FindLiterallyCalls,
    InlineClosureLikes,
    InlineInlinables,
    LiteralPropagationSubPipelinePass,
    LiteralUnroll,
    MakeFunctionToJitFunction,
    RewriteDynamicRaises,
    WithLifting,
)

__all__ = ["PartCompiler"]


class _PartLibrary(JITCodeLibrary):
    """The LLVM module of a function and of all that it calls, not optimised."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0  # there is no machine code

    @property
    def codegen(self) -> Any:
        return SimpleNamespace(set_env=_ignore)


def _ignore(name: str, env: Any) -> None:
    """Only machine code has an environment."""


@register_pass(mutates_CFG=False, analysis_only=False)
class _MakePart(LoweringPass):
    """Give a function the library above."""

    _name = "make_part"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return False


_IN_VAIN = frozenset(
    (
        WithLifting,
        InlineClosureLikes,
        RewriteDynamicRaises,
        MakeFunctionToJitFunction,
        InlineInlinables,
        FindLiterallyCalls,
        LiteralUnroll,
        LiteralPropagationSubPipelinePass,
        InlineOverloads,
        NopythonRewrites,
    )
)
"""Passes for what parts do not have: closures, contexts, exceptions, arrays. After each of them
Numba goes through the whole function again: without them a first call takes 0.9 of the time."""


class PartCompiler(CompilerBase):
    """Numba's compiler for functions that no one calls but other compiled functions."""

    def define_pipelines(self) -> list[Any]:
        """Numba's passes, and ours before code is generated."""
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes = [(step, name) for step, name in pipeline.passes if step not in _IN_VAIN]
        position = [step for step, _ in passes].index(NativeLowering)
        passes.insert(position, (_MakePart, "make a part"))
        pipeline.passes = passes
        pipeline.finalize()
        return [pipeline]
