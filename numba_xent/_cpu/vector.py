"""SIMD registers as a Numba type, and the meaning of the formulas' primitives on them.

A ``Vector(dtype, lanes)`` is LLVM's ``<lanes x dtype>``. Arithmetic is lane by lane; a number meets
a vector in every lane. LLVM splits a vector that is wider than the machine's registers, so the
source is the same for AVX-512, AVX2, SSE and NEON. No fast-math flag is ever set: the order of
every sum is the order in which it is written, whatever the compiler.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, Signature, infer_global, signature
from numba.extending import (
    lower_builtin,
    models,
    register_model,
    type_callable,
)

from .._math import compensated, constants, cross_entropy, exponential, half, primitives
from .compile import for_types, jitable

LANES = {"float32": 16, "float64": 8}
"""Lanes of a register of 64 bytes, for each compute dtype."""

HALVES = ("float16", "bfloat16")
"""Dtypes that are stored, but not computed with: that is done in float32."""

REGISTER = 64
"""Bytes of a register of the machine, or what stands for it."""

PAGE = 4096
"""Bytes of a page of memory: of what is read one by one, processors ask for the rest of its page and
for the beginning of the next one."""

REGISTERS = 2
"""Registers that columns work on as one: twice the independent work, which the processor needs to
keep busy between operations that wait for each other, and longer runs of memory."""

_INT32 = ir.IntType(32)
_INTEGER_OF = {types.float32: types.int32, types.float64: types.int64}
_FLOAT_OF = {types.int32: types.float32, types.int64: types.float64}


class Half(types.Type):
    """One of `HALVES`: 16 bits that can be loaded and stored, no more."""

    bitwidth = 16


@register_model(Half)
class _HalfModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Half) -> None:
        super().__init__(dmm, fe_type, ir.IntType(fe_type.bitwidth))


class Vector(types.Type):
    """A register of `lanes` numbers of `dtype`; of booleans, the result of a comparison."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype = dtype
        self.lanes = lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")

    @property
    def key(self) -> tuple[Any, int]:
        """What makes two vector types the same."""
        return self.dtype, self.lanes


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        if fe_type.dtype is types.boolean:
            element = ir.IntType(1)
        else:
            element = dmm.lookup(fe_type.dtype).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.lanes))


def dtype_of(ty: Any) -> Any:
    """The dtype of a vector or of a number."""
    return ty.dtype if isinstance(ty, Vector) else ty


def with_dtype(ty: Any, dtype: Any) -> Any:
    """The type of `dtype` with the lanes of `ty`: a vector, or one number."""
    return Vector(dtype, ty.lanes) if isinstance(ty, Vector) else dtype


def _common(*args: Any) -> Any:
    """The vector type among the operands, or the widest of plain numbers."""
    for ty in args:
        if isinstance(ty, Vector):
            return ty
    floats = [ty for ty in args if isinstance(ty, types.Float)]
    if floats:
        return max(floats, key=lambda ty: ty.bitwidth)
    return types.unliteral(args[0])  # type: ignore[attr-defined]


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """LLVM code for a vector that holds a value in every lane."""
    ty = ir.VectorType(value.type, lanes)
    if isinstance(value, ir.Constant):
        return ir.Constant(ty, [value] * lanes)
    undefined = ir.Constant(ty, ir.Undefined)
    first = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)
    )


def _as(context: Any, builder: Any, value: Any, ty: Any, want: Any) -> Any:
    """`value` of type `ty` as an operand of type `want`."""
    if isinstance(ty, Vector):
        return value
    value = context.cast(builder, value, ty, dtype_of(want))
    return splat(builder, value, want.lanes) if isinstance(want, Vector) else value


def _call(builder: Any, name: str, result: Any, *args: Any, flags: tuple[str, ...] = ()) -> Any:
    """Call an LLVM intrinsic."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in args]), name
    )
    return builder.call(function, args, fastmath=flags)


def _suffix(ty: Any) -> str:
    lanes = f"v{ty.lanes}" if isinstance(ty, Vector) else ""
    return f"{lanes}f{dtype_of(ty).bitwidth}"


# ---- operators ------------------------------------------------------------------------------


_BINARY_PAIRS = ((Vector, Vector), (Vector, types.Number), (types.Number, Vector))


def _define_operator(
    op: Callable[[Any, Any], Any],
    result: Callable[[Vector], Any],
    emit: Callable[[Any, Any, Any, Any], Any],
) -> None:
    """Give a Python operator its meaning on vectors."""

    class Template(AbstractTemplate):
        def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Signature:
            if any(isinstance(a, Vector) for a in args):
                return signature(result(_common(*args)), *args)
            return None

    infer_global(op)(Template)

    def lower(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        want = _common(*sig.args)
        a, b = (_as(context, builder, v, t, want) for v, t in zip(args, sig.args, strict=True))
        return emit(builder, want.dtype, a, b)

    for pair in _BINARY_PAIRS:
        lower_builtin(op, *pair)(lower)


def _arithmetic(float_name: str, integer_name: str) -> Callable[[Any, Any, Any, Any], Any]:
    def emit(builder: Any, dtype: Any, a: Any, b: Any) -> Any:
        name = float_name if isinstance(dtype, types.Float) else integer_name
        return getattr(builder, name)(a, b)

    return emit


def _comparison(symbol: str) -> Callable[[Any, Any, Any, Any], Any]:
    def emit(builder: Any, dtype: Any, a: Any, b: Any) -> Any:
        if not isinstance(dtype, types.Float):
            return builder.icmp_signed(symbol, a, b)
        # Python's meaning for NaN: every comparison is false but "!=".
        compare = builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered
        return compare(symbol, a, b)

    return emit


for _op, _names in {
    operator.add: ("fadd", "add"),
    operator.sub: ("fsub", "sub"),
    operator.mul: ("fmul", "mul"),
    operator.truediv: ("fdiv", "sdiv"),
    operator.and_: ("and_", "and_"),
    operator.or_: ("or_", "or_"),
    operator.lshift: ("shl", "shl"),
    operator.rshift: ("ashr", "ashr"),
}.items():
    _define_operator(_op, lambda v: v, _arithmetic(*_names))

for _op, _symbol in {
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}.items():
    _define_operator(_op, lambda v: Vector(types.boolean, v.lanes), _comparison(_symbol))


@infer_global(operator.neg)
class _Negate(AbstractTemplate):
    def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Signature:
        return signature(args[0], args[0]) if isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _lower_negate(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
    return builder.fneg(args[0])


# ---- the primitives of _math ----------------------------------------------------------------


def _define(
    function: Callable[..., Any],
    result: Callable[..., Any],
    emit: Callable[..., Any],
    arity: int,
) -> None:
    """Give a function of ``_math.primitives`` its meaning on numbers and vectors.

    `emit` receives the operands already converted to the common type, but for a condition.
    """

    def typing(context: Any) -> Callable[..., Any]:
        # Numba reads the number of arguments off the typer's own signature.
        typers: dict[int, Callable[..., Any]] = {
            1: lambda a: result(a),
            2: lambda a, b: result(a, b),
            3: lambda a, b, c: result(a, b, c),
        }
        return typers[arity]

    type_callable(function)(typing)

    def lower(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return emit(context, builder, sig, *args)

    lower_builtin(function, *[types.Any] * arity)(lower)


def _emit_fma(context: Any, builder: Any, sig: Signature, *args: Any) -> Any:
    want = sig.return_type
    operands = [_as(context, builder, v, t, want) for v, t in zip(args, sig.args, strict=True)]
    return _call(builder, f"llvm.fma.{_suffix(want)}", operands[0].type, *operands)


def _emit_where(context: Any, builder: Any, sig: Signature, condition: Any, a: Any, b: Any) -> Any:
    want = sig.return_type
    a = _as(context, builder, a, sig.args[1], want)
    b = _as(context, builder, b, sig.args[2], want)
    return builder.select(condition, a, b)


def _type_where(condition: Any, a: Any, b: Any) -> Any:
    chosen = _common(a, b)
    return chosen if isinstance(chosen, Vector) else with_dtype(condition, chosen)


def _emit_maximum(context: Any, builder: Any, sig: Signature, a: Any, b: Any) -> Any:
    want = sig.return_type
    a = _as(context, builder, a, sig.args[0], want)
    b = _as(context, builder, b, sig.args[1], want)
    # Which zero wins does not matter, and telling them apart costs two instructions.
    return _call(builder, f"llvm.maximum.{_suffix(want)}", a.type, a, b, flags=("nsz",))


def _emit_bitcast(context: Any, builder: Any, sig: Signature, x: Any) -> Any:
    return builder.bitcast(x, context.get_value_type(sig.return_type))


def _emit_to_float(context: Any, builder: Any, sig: Signature, i: Any) -> Any:
    return builder.sitofp(i, context.get_value_type(sig.return_type))


def _emit_widen(context: Any, builder: Any, sig: Signature, x: Any) -> Any:
    if dtype_of(sig.args[0]) is types.float64:
        return x
    return builder.fpext(x, context.get_value_type(sig.return_type))


_define(primitives.fma, _common, _emit_fma, 3)
_define(primitives.where, _type_where, _emit_where, 3)
_define(primitives.maximum, _common, _emit_maximum, 2)
_define(primitives.bits, lambda x: with_dtype(x, _INTEGER_OF[dtype_of(x)]), _emit_bitcast, 1)
_define(primitives.from_bits, lambda i: with_dtype(i, _FLOAT_OF[dtype_of(i)]), _emit_bitcast, 1)
_define(primitives.to_float, lambda i: with_dtype(i, _FLOAT_OF[dtype_of(i)]), _emit_to_float, 1)
_define(primitives.widen, lambda x: with_dtype(x, types.float64), _emit_widen, 1)


@for_types(constants.constants)
def _constants(x: Any) -> Callable[[Any], constants.Constants]:
    of_dtype = constants.FLOAT32 if dtype_of(x) is types.float32 else constants.FLOAT64

    def constants_of(x: Any) -> constants.Constants:
        return of_dtype

    return constants_of


for _function in (
    compensated.two_sum,
    compensated.two_product,
    compensated.accumulate,
    compensated.add_pairs,
    compensated.scale_pair,
    compensated.low_part,
    compensated.total_of,
    exponential.exp_scaled,
    exponential.exp,
    exponential.log_of_sum,
    exponential.log_of_float32_sum,
    cross_entropy.smooth,
    cross_entropy.exp_of_class,
    cross_entropy.is_below,
    cross_entropy.exp_of_rest,
    cross_entropy.drop_below,
    cross_entropy.add_label,
    cross_entropy.add_drop,
    cross_entropy.move,
    cross_entropy.merge,
    cross_entropy.finish,
    cross_entropy.finish_float32,
    cross_entropy.finish_with,
    cross_entropy.dense_loss,
    cross_entropy.sparse_loss,
    cross_entropy.class_loss,
    cross_entropy.probability,
    cross_entropy.dense_gradient,
    cross_entropy.sparse_gradient,
    cross_entropy.sparse_label_gradient,
    cross_entropy.label_gradient,
    half.float16_to_float,
    half.float_to_float16,
    half.bfloat16_to_float,
    half.float_to_bfloat16,
):
    jitable(_function)
