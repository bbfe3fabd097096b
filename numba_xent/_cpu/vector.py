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
    intrinsic,
    lower_builtin,
    models,
    overload,
    register_jitable,
    register_model,
    type_callable,
)

from .._math import compensated, constants, cross_entropy, exponential, half, primitives

LANES = {"float32": 16, "float64": 8}
"""Lanes of a register of 64 bytes, for each compute dtype."""

_INT32 = ir.IntType(32)
_INTEGER_OF = {types.float32: types.int32, types.float64: types.int64}
_FLOAT_OF = {types.int32: types.float32, types.int64: types.float64}


class Vector(types.Type):
    """A register of `lanes` numbers of `dtype`; of booleans, the result of a comparison."""

    def __init__(self, dtype: types.Type, lanes: int) -> None:
        self.dtype = dtype
        self.lanes = lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")

    @property
    def key(self) -> tuple[types.Type, int]:
        """What makes two vector types the same."""
        return self.dtype, self.lanes


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        if fe_type.dtype is types.boolean:
            element = ir.IntType(1)
        else:
            element = dmm.lookup(fe_type.dtype).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.lanes))


def _dtype(ty: types.Type) -> types.Type:
    return ty.dtype if isinstance(ty, Vector) else ty


def _like(ty: types.Type, dtype: types.Type) -> types.Type:
    """The type of `dtype` with the lanes of `ty`: a vector, or one number."""
    return Vector(dtype, ty.lanes) if isinstance(ty, Vector) else dtype


def _common(*args: types.Type) -> types.Type:
    """The vector type among the operands, or the widest of plain numbers."""
    for ty in args:
        if isinstance(ty, Vector):
            return ty
    floats = [ty for ty in args if isinstance(ty, types.Float)]
    return max(floats, key=lambda ty: ty.bitwidth) if floats else types.unliteral(args[0])


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    ty = ir.VectorType(value.type, lanes)
    if isinstance(value, ir.Constant):
        return ir.Constant(ty, [value] * lanes)
    undefined = ir.Constant(ty, ir.Undefined)
    first = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)
    )


def _as(context: Any, builder: Any, value: Any, ty: types.Type, want: types.Type) -> Any:
    """`value` of type `ty` as an operand of type `want`."""
    if isinstance(ty, Vector):
        return value
    value = context.cast(builder, value, ty, _dtype(want))
    return _splat(builder, value, want.lanes) if isinstance(want, Vector) else value


def _call(builder: Any, name: str, result: Any, *args: Any, flags: tuple[str, ...] = ()) -> Any:
    """Call an LLVM intrinsic."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in args]), name
    )
    return builder.call(function, args, fastmath=flags)


def _suffix(ty: types.Type) -> str:
    lanes = f"v{ty.lanes}" if isinstance(ty, Vector) else ""
    return f"{lanes}f{_dtype(ty).bitwidth}"


# ---- operators ------------------------------------------------------------------------------


_BINARY_PAIRS = ((Vector, Vector), (Vector, types.Number), (types.Number, Vector))


def _define_operator(
    op: Callable[[Any, Any], Any],
    result: Callable[[Vector], types.Type],
    emit: Callable[[Any, types.Type, Any, Any], Any],
) -> None:
    """Give a Python operator its meaning on vectors."""

    class Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> Signature:
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


def _arithmetic(float_name: str, integer_name: str) -> Callable[[Any, types.Type, Any, Any], Any]:
    def emit(builder: Any, dtype: types.Type, a: Any, b: Any) -> Any:
        name = float_name if isinstance(dtype, types.Float) else integer_name
        return getattr(builder, name)(a, b)

    return emit


def _comparison(symbol: str) -> Callable[[Any, types.Type, Any, Any], Any]:
    def emit(builder: Any, dtype: types.Type, a: Any, b: Any) -> Any:
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
class _Negate(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> Signature:
        return signature(args[0], args[0]) if isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _lower_negate(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
    return builder.fneg(args[0])


# ---- the primitives of _math ----------------------------------------------------------------


def _define(
    function: Callable[..., Any],
    result: Callable[..., types.Type],
    emit: Callable[..., Any],
    arity: int,
) -> None:
    """Give a function of ``_math.primitives`` its meaning on numbers and vectors.

    `emit` receives the operands already converted to the common type, but for a condition.
    """

    def typing(context: Any) -> Callable[..., types.Type]:
        # Numba reads the number of arguments off the typer's own signature.
        return {
            1: lambda a: result(a),
            2: lambda a, b: result(a, b),
            3: lambda a, b, c: result(a, b, c),
        }[arity]

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


def _type_where(condition: types.Type, a: types.Type, b: types.Type) -> types.Type:
    return _like(condition, _dtype(_common(a, b)))


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
    if _dtype(sig.args[0]) is types.float64:
        return x
    return builder.fpext(x, context.get_value_type(sig.return_type))


_define(primitives.fma, _common, _emit_fma, 3)
_define(primitives.where, _type_where, _emit_where, 3)
_define(primitives.maximum, _common, _emit_maximum, 2)
_define(primitives.bits, lambda x: _like(x, _INTEGER_OF[_dtype(x)]), _emit_bitcast, 1)
_define(primitives.from_bits, lambda i: _like(i, _FLOAT_OF[_dtype(i)]), _emit_bitcast, 1)
_define(primitives.to_float, lambda i: _like(i, _FLOAT_OF[_dtype(i)]), _emit_to_float, 1)
_define(primitives.widen, lambda x: _like(x, types.float64), _emit_widen, 1)


@overload(constants.constants, strict=False)
def _constants(x: types.Type) -> Callable[[Any], constants.Constants]:
    of_dtype = constants.FLOAT32 if _dtype(x) is types.float32 else constants.FLOAT64

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
    cross_entropy.smooth,
    cross_entropy.exp_of_class,
    cross_entropy.add_exp,
    cross_entropy.add_label,
    cross_entropy.move,
    cross_entropy.merge,
    cross_entropy.finish,
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
    register_jitable(_function)


# ---- what only registers have ---------------------------------------------------------------


@intrinsic(prefer_literal=True)
def zeros(typingctx: Any, dtype: types.Type) -> Any:
    """A register of zeros of the compute dtype, given by its name."""
    name = dtype.literal_value
    result = Vector(getattr(types, name), LANES[name])

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return ir.Constant(context.get_value_type(result), [0.0] * result.lanes)

    return result(dtype), codegen


@intrinsic
def spread(typingctx: Any, x: types.Type, like: types.Type) -> Any:
    """A float64 number or vector as a register of the type of `like`."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        value = args[0]
        if _dtype(x) is not like.dtype:
            value = builder.fptrunc(value, context.get_value_type(_like(x, like.dtype)))
        return value if isinstance(x, Vector) else _splat(builder, value, like.lanes)

    return like(x, like), codegen


def _halves(builder: Any, x: Any, lanes: int) -> tuple[Any, Any]:
    def pick(indices: range) -> Any:
        mask = ir.Constant(ir.VectorType(_INT32, len(indices)), list(indices))
        return builder.shuffle_vector(x, x, mask)

    return pick(range(lanes // 2)), pick(range(lanes // 2, lanes))


@intrinsic
def low_half(typingctx: Any, x: types.Type) -> Any:
    """The first half of the lanes."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return _halves(builder, args[0], x.lanes)[0]

    return Vector(x.dtype, x.lanes // 2)(x), codegen


@intrinsic
def high_half(typingctx: Any, x: types.Type) -> Any:
    """The second half of the lanes."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return _halves(builder, args[0], x.lanes)[1]

    return Vector(x.dtype, x.lanes // 2)(x), codegen


@intrinsic
def first_lane(typingctx: Any, x: types.Type) -> Any:
    """The number in the first lane."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return builder.extract_element(args[0], _INT32(0))

    return x.dtype(x), codegen


@intrinsic
def any_lane(typingctx: Any, mask: types.Type) -> Any:
    """Whether a condition holds in any lane (or for the one number)."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        if not isinstance(mask, Vector):
            return args[0]
        word = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.icmp_unsigned("!=", word, word.type(0))

    return types.boolean(mask), codegen


@intrinsic
def load(typingctx: Any, address: types.Type, like: types.Type) -> Any:
    """What lies at an address, as the type of `like`: a number or a register."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], context.get_value_type(like).as_pointer())
        return builder.load(pointer, align=_dtype(like).bitwidth // 8)

    return like(address, like), codegen


@intrinsic
def store(typingctx: Any, address: types.Type, value: types.Type) -> Any:
    """Put a number or a register at an address."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], args[1].type.as_pointer())
        builder.store(args[1], pointer, align=_dtype(value).bitwidth // 8)

    return types.void(address, value), codegen


def _convert(context: Any, builder: Any, value: Any, source: types.Type, want: types.Type) -> Any:
    """A number or vector converted to the dtype of `want`, which has as many lanes."""
    a, b = _dtype(source), _dtype(want)
    ty = context.get_value_type(want)
    if a is b:
        return value
    if isinstance(a, types.Float):
        return builder.fpext(value, ty) if b.bitwidth > a.bitwidth else builder.fptrunc(value, ty)
    if isinstance(b, types.Float):
        return builder.sitofp(value, ty) if a.signed else builder.uitofp(value, ty)
    if b.bitwidth < a.bitwidth:
        return builder.trunc(value, ty)
    return builder.sext(value, ty) if a.signed else builder.zext(value, ty)


@intrinsic
def load_as(typingctx: Any, address: types.Type, stored: types.Type, like: types.Type) -> Any:
    """What lies at an address as numbers of the type of `stored`, converted to that of `like`."""
    source = _like(like, stored)

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], context.get_value_type(source).as_pointer())
        value = builder.load(pointer, align=stored.bitwidth // 8)
        return _convert(context, builder, value, source, like)

    return like(address, stored, like), codegen


@intrinsic
def store_as(typingctx: Any, address: types.Type, value: types.Type, stored: types.Type) -> Any:
    """Put numbers at an address, converted to the type of `stored`."""
    target = _like(value, stored)

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        converted = _convert(context, builder, args[1], value, target)
        pointer = builder.inttoptr(args[0], converted.type.as_pointer())
        builder.store(converted, pointer, align=stored.bitwidth // 8)

    return types.void(address, value, stored), codegen


@intrinsic
def convert(typingctx: Any, x: types.Type, like: types.Type) -> Any:
    """`x` in the dtype of `like`."""
    result = _like(x, _dtype(like))

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return _convert(context, builder, args[0], x, result)

    return result(x, like), codegen


@intrinsic
def bits_register(typingctx: Any, like: types.Type) -> Any:
    """A register of int32 zeros with as many lanes as `like`."""
    result = Vector(types.int32, like.lanes)

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return ir.Constant(context.get_value_type(result), [0] * result.lanes)

    return result(like), codegen


@intrinsic
def lanes_of(typingctx: Any, like: types.Type) -> Any:
    """How many lanes a register has."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return context.get_constant(types.int64, like.lanes)

    return types.int64(like), codegen


@intrinsic
def size_of(typingctx: Any, like: types.Type) -> Any:
    """Bytes of a number, or of a whole register."""
    lanes = like.lanes if isinstance(like, Vector) else 1
    size = lanes * _dtype(like).bitwidth // 8

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return context.get_constant(types.int64, size)

    return types.int64(like), codegen


@intrinsic
def call_at(typingctx: Any, function: types.Type, args: types.Type) -> Any:
    """Call the C function at an address with a tuple of numbers; it returns nothing."""

    def codegen(context: Any, builder: Any, sig: Signature, values: Any) -> Any:
        operands = cgutils.unpack_tuple(builder, values[1])
        ty = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
        builder.call(builder.inttoptr(values[0], ty.as_pointer()), operands)

    return types.void(function, args), codegen
