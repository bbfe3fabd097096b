"""Halves to float32 and back: by the processor's own instructions where it has them.

They give what the formulas of ``_math.half`` give, but for the bits of NaN, in a tenth of the time.
Where LLVM has no such instruction it would call a library that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from .._math.half import (
    bfloat16_to_float,
    float16_to_float,
    float_to_bfloat16,
    float_to_float16,
)
from .cache import processor
from .compile import for_types
from .vector import Half, dtype_of, with_dtype

_HALF = ir.HalfType()
_INT16 = ir.IntType(16)


def has_conversions() -> bool:
    """Whether the processor that Numba compiles for converts float16."""
    triple, _, features = processor()
    return triple.startswith(("aarch64", "arm64")) or "+f16c" in features.split(",")


@intrinsic
def native_to_float(typingctx: Any, bits: Any) -> Any:
    """float32 from the bits of float16, one in each lane of an int32 register."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        narrow = builder.trunc(args[0], ir.VectorType(_INT16, bits.lanes))
        half = builder.bitcast(narrow, ir.VectorType(_HALF, bits.lanes))
        return builder.fpext(half, context.get_value_type(sig.return_type))

    return with_dtype(bits, types.float32)(bits), codegen


@intrinsic
def native_from_float(typingctx: Any, x: Any) -> Any:
    """The bits of the float16 nearest to each float32, ties to even, in an int32 register."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        half = builder.fptrunc(args[0], ir.VectorType(_HALF, x.lanes))
        narrow = builder.bitcast(half, ir.VectorType(_INT16, x.lanes))
        return builder.zext(narrow, context.get_value_type(sig.return_type))

    return with_dtype(x, types.int32)(x), codegen


# ---- registers as they are stored, and as they are computed with ----------------------------


@intrinsic
def _bits_of(typingctx: Any, x: Any) -> Any:
    """The bits of halves as int32."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return builder.zext(args[0], context.get_value_type(sig.return_type))

    return with_dtype(x, types.int32)(x), codegen


@intrinsic
def _from_bits(typingctx: Any, bits: Any, stored: Any) -> Any:
    """Halves like `stored` from their bits, the low ones of int32."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return builder.trunc(args[0], context.get_value_type(sig.return_type))

    return with_dtype(bits, dtype_of(stored))(bits, stored), codegen


def _conversions(half: Half) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """What makes float32 of the bits of halves, and the reverse."""
    if half.name == "bfloat16":
        return bfloat16_to_float, float_to_bfloat16
    if has_conversions():
        return native_to_float, native_from_float
    return float16_to_float, float_to_float16


def is_half(stored: Any) -> bool:
    """Whether registers like this one hold halves."""
    raise NotImplementedError


@for_types(is_half)
def _is_half(stored: Any) -> Any:
    answer = isinstance(dtype_of(stored), Half)
    return lambda stored: answer


def to_float(bits: Any, half: Any) -> Any:
    """float32 from the bits of halves like `half`, one in each lane of an int32 register."""
    raise NotImplementedError


@for_types(to_float)
def _to_float(bits: Any, half: Any) -> Any:
    convert, _ = _conversions(dtype_of(half))
    return lambda bits, half: convert(bits)


def from_float(x: Any, half: Any) -> Any:
    """The bits of the nearest halves like `half`, in an int32 register."""
    raise NotImplementedError


@for_types(from_float)
def _from_float(x: Any, half: Any) -> Any:
    _, convert = _conversions(dtype_of(half))
    return lambda x, half: convert(x)


def widened(x: Any) -> Any:
    """What was loaded as it is stored, in the dtype that is computed with."""
    raise NotImplementedError


@for_types(widened)
def _widened(x: Any) -> Any:
    if not isinstance(dtype_of(x), Half):
        return lambda x: x
    return lambda x: to_float(_bits_of(x), x)


def narrowed(x: Any, stored: Any) -> Any:
    """What was computed, as registers like `stored` are."""
    raise NotImplementedError


@for_types(narrowed)
def _narrowed(x: Any, stored: Any) -> Any:
    if not isinstance(dtype_of(stored), Half):
        return lambda x, stored: x
    return lambda x, stored: _from_bits(from_float(x, stored), stored)
