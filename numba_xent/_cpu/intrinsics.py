"""What kernels do with registers and memory beyond arithmetic, one LLVM operation or so each.

Where a function takes `like`, only its type matters: a register, or a number.

Addresses come in as integers and are made pointers before anything is added to them. LLVM may turn
the sum of two integers into a pointer by either of them: if that one is 0, it takes the access for
one through a null pointer, which cannot happen, and drops the code.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, Signature, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from .vector import HALVES, LANES, REGISTER, Half, Vector, dtype_of, splat, with_dtype

_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


class Pointer(types.Type):
    """A place in memory, to which bytes can be added."""

    def __init__(self) -> None:
        super().__init__(name="Pointer")


_POINTER = Pointer()


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, ir.IntType(8).as_pointer())


@infer_global(operator.add)
class _Advance(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(_POINTER, _POINTER, types.int64)
        return None


@lower_builtin(operator.add, Pointer, types.int64)
def _lower_advance(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
    return builder.gep(args[0], [args[1]])


@intrinsic
def pointer(typingctx: Any, address: Any) -> Any:
    """The place that an integer is the address of."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(_POINTER))

    return _POINTER(types.int64), codegen


@intrinsic
def address_of(typingctx: Any, place: Any) -> Any:
    """The address of a place, as an integer."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return builder.ptrtoint(args[0], _INT64)

    return types.int64(place), codegen


@intrinsic(prefer_literal=True)
def zeros(typingctx: Any, dtype: Any, registers: Any) -> Any:
    """Zeros of the compute dtype, given by its name, in one register or several as one.

    For halves they have the lanes of the dtype that is computed with, and only half the bytes.
    """
    name = dtype.literal_value
    kind = Half(name) if name in HALVES else getattr(types, name)
    result = Vector(kind, LANES["float32" if name in HALVES else name] * registers.literal_value)

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return ir.Constant(context.get_value_type(result), None)

    return result(dtype, registers), codegen


@intrinsic
def part_of(typingctx: Any, like: Any) -> Any:
    """Zeros like those of a register, but in at most so many lanes as one of float32 has."""
    result = Vector(like.dtype, min(like.lanes, LANES["float32"]))

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return ir.Constant(context.get_value_type(result), None)

    return result(like), codegen


@intrinsic
def lane_numbers(typingctx: Any, like: Any) -> Any:
    """0, 1, 2, ... in the lanes of a register like another."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return ir.Constant(context.get_value_type(like), [float(i) for i in range(like.lanes)])

    return like(like), codegen


@intrinsic
def spread(typingctx: Any, x: Any, like: Any) -> Any:
    """A float64 number or vector as a register of the type of `like`."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        value = args[0]
        if dtype_of(x) is not like.dtype:
            value = builder.fptrunc(value, context.get_value_type(with_dtype(x, like.dtype)))
        return value if isinstance(x, Vector) else splat(builder, value, like.lanes)

    return like(x, like), codegen


def shuffled(builder: Any, a: Any, b: Any, indices: Sequence[int]) -> Any:
    """The elements of two vectors, numbered through, that the indices name."""
    mask = ir.Constant(ir.VectorType(_INT32, len(indices)), list(indices))
    return builder.shuffle_vector(a, b, mask)


@intrinsic
def low_half(typingctx: Any, x: Any) -> Any:
    """The first half of the lanes."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return shuffled(builder, args[0], args[0], range(x.lanes // 2))

    return Vector(x.dtype, x.lanes // 2)(x), codegen


@intrinsic
def high_half(typingctx: Any, x: Any) -> Any:
    """The second half of the lanes."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return shuffled(builder, args[0], args[0], range(x.lanes // 2, x.lanes))

    return Vector(x.dtype, x.lanes // 2)(x), codegen


@intrinsic
def join(typingctx: Any, a: Any, b: Any) -> Any:
    """The lanes of two registers in one of twice the length."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return shuffled(builder, args[0], args[1], range(2 * a.lanes))

    return Vector(a.dtype, 2 * a.lanes)(a, b), codegen


@intrinsic
def evens(typingctx: Any, a: Any, b: Any) -> Any:
    """Every second lane of two registers, from the first on."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return shuffled(builder, args[0], args[1], range(0, 2 * a.lanes, 2))

    return a(a, b), codegen


@intrinsic
def odds(typingctx: Any, a: Any, b: Any) -> Any:
    """Every second lane of two registers, from the second on."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return shuffled(builder, args[0], args[1], range(1, 2 * a.lanes, 2))

    return a(a, b), codegen


@intrinsic
def first_lane(typingctx: Any, x: Any) -> Any:
    """The number in the first lane."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return builder.extract_element(args[0], _INT32(0))

    return x.dtype(x), codegen


@intrinsic
def any_lane(typingctx: Any, mask: Any) -> Any:
    """Whether a condition holds in any lane (or for the one number)."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        if not isinstance(mask, Vector):
            return args[0]
        word = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.icmp_unsigned("!=", word, word.type(0))

    return types.boolean(mask), codegen


@intrinsic
def count_lanes(typingctx: Any, mask: Any) -> Any:
    """In how many lanes a condition holds."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        word = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return _extended(builder, builder.ctpop(word))

    return types.int64(mask), codegen


def _extended(builder: Any, word: Any) -> Any:
    return builder.zext(word, _INT64) if word.type.width < 64 else word


@intrinsic
def load(typingctx: Any, place: Any, like: Any) -> Any:
    """What lies at a place, as the type of `like`: a number or a register."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        memory = builder.bitcast(args[0], context.get_value_type(like).as_pointer())
        return builder.load(memory, align=dtype_of(like).bitwidth // 8)

    return like(place, like), codegen


@intrinsic
def store(typingctx: Any, place: Any, value: Any) -> Any:
    """Put a number or a register at a place."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        memory = builder.bitcast(args[0], args[1].type.as_pointer())
        builder.store(args[1], memory, align=dtype_of(value).bitwidth // 8)

    return types.void(place, value), codegen


@intrinsic(prefer_literal=True)
def load_all(typingctx: Any, place: Any, n: Any, step: Any, like: Any) -> Any:
    """`n` numbers or registers that lie so many bytes apart, as a tuple."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        ty = context.get_value_type(like).as_pointer()
        values = []
        for i in range(n.literal_value):
            memory = builder.gep(args[0], [builder.mul(args[2], _INT64(i))])
            value = builder.load(builder.bitcast(memory, ty), align=dtype_of(like).bitwidth // 8)
            values.append(value)
        return context.make_tuple(builder, sig.return_type, values)

    result: Any = types.UniTuple(like, n.literal_value)  # type: ignore[attr-defined]
    return result(place, n, types.int64, like), codegen


@intrinsic
def store_all(typingctx: Any, place: Any, step: Any, values: Any) -> Any:
    """Put the numbers or registers of a tuple so many bytes apart."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        for i, value in enumerate(cgutils.unpack_tuple(builder, args[2])):
            memory = builder.gep(args[0], [builder.mul(args[1], _INT64(i))])
            memory = builder.bitcast(memory, value.type.as_pointer())
            builder.store(value, memory, align=dtype_of(values[0]).bitwidth // 8)

    return types.void(place, types.int64, values), codegen


def _first_lanes(builder: Any, n: Any, lanes: int) -> Any:
    """A mask of the first `n` lanes."""
    numbers = ir.Constant(ir.VectorType(_INT32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(n, _INT32), lanes))


def _call_masked(builder: Any, verb: str, like: Any, result: Any, args: Sequence[Any]) -> Any:
    """Call LLVM's masked load or store, which touches memory only where the mask is set."""
    letter = "f" if isinstance(like.dtype, types.Float) else "i"
    name = f"llvm.masked.{verb}.v{like.lanes}{letter}{like.dtype.bitwidth}.p0"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [arg.type for arg in args]), name
    )
    return builder.call(function, args)


def _load_first(context: Any, builder: Any, place: Any, n: Any, like: Any) -> Any:
    """The first `n` lanes of a register of type `like`, and zeros."""
    ty = context.get_value_type(like)
    memory = builder.bitcast(place, ty.as_pointer())
    operands = [memory, _first_lanes(builder, n, like.lanes), ir.Constant(ty, None)]
    return _call_masked(builder, "load", like, ty, operands)


def _store_first(builder: Any, place: Any, value: Any, n: Any, like: Any) -> None:
    """Put the first `n` lanes of a register of type `like` at a place."""
    memory = builder.bitcast(place, value.type.as_pointer())
    operands = [value, memory, _first_lanes(builder, n, like.lanes)]
    _call_masked(builder, "store", like, ir.VoidType(), operands)


@intrinsic
def load_part(typingctx: Any, place: Any, n: Any, like: Any) -> Any:
    """The first `n` lanes of the register that lies at a place, and zeros; no more is read."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return _load_first(context, builder, args[0], args[1], like)

    return like(place, types.int64, like), codegen


@intrinsic
def store_part(typingctx: Any, place: Any, value: Any, n: Any) -> Any:
    """Put the first `n` lanes of a register at a place; no more is written."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        _store_first(builder, args[0], args[1], args[2], value)

    return types.void(place, value, types.int64), codegen


@intrinsic
def store_streaming(typingctx: Any, place: Any, value: Any) -> Any:
    """Put a register at a place aligned to its size, past the caches; `fence` must follow."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        memory = builder.bitcast(args[0], args[1].type.as_pointer())
        instruction = builder.store(args[1], memory, align=value.lanes * value.dtype.bitwidth // 8)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([_INT32(1)]))

    return types.void(place, value), codegen


@intrinsic
def fence(typingctx: Any) -> Any:
    """Make streaming stores visible to other threads before what comes after."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        builder.fence("seq_cst")

    return types.void(), codegen


@intrinsic
def align_stack(typingctx: Any) -> Any:
    """Align the stack of the function that calls this to cache lines.

    LLVM would do so only for what it knows to lie there before it runs out of registers. What it
    puts there afterwards would lie across two lines, and in some processes across two pages.
    """

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        attributes = builder.function.attributes
        attributes.alignstack = REGISTER
        attributes.add("nounwind")  # llvmlite leaves out the other if there is nothing else
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def prefetch(typingctx: Any, place: Any) -> Any:
    """Ask for a cache line that will be read soon; any address will do."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        kinds = [args[0].type, _INT32, _INT32, _INT32]
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0"
        )
        read, keep_in_all_caches, data = _INT32(0), _INT32(3), _INT32(1)
        builder.call(function, [args[0], read, keep_in_all_caches, data])

    return types.void(place), codegen


def converted(context: Any, builder: Any, value: Any, source: Any, want: Any) -> Any:
    """A number or vector converted to the dtype of `want`, which has as many lanes."""
    a, b = dtype_of(source), dtype_of(want)
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
def load_as(typingctx: Any, place: Any, stored: Any, like: Any) -> Any:
    """What lies at a place as numbers of the type of `stored`, converted to that of `like`."""
    source = with_dtype(like, stored)

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        memory = builder.bitcast(args[0], context.get_value_type(source).as_pointer())
        value = builder.load(memory, align=stored.bitwidth // 8)
        return converted(context, builder, value, source, like)

    return like(place, stored, like), codegen


@intrinsic
def store_as(typingctx: Any, place: Any, value: Any, stored: Any) -> Any:
    """Put numbers at a place, converted to the type of `stored`."""
    target = with_dtype(value, stored)

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        number = converted(context, builder, args[1], value, target)
        memory = builder.bitcast(args[0], number.type.as_pointer())
        builder.store(number, memory, align=stored.bitwidth // 8)

    return types.void(place, value, stored), codegen


@intrinsic
def load_part_as(typingctx: Any, place: Any, n: Any, stored: Any, like: Any) -> Any:
    """The first `n` lanes of what `load_as` loads, and zeros; no more is read."""
    source = with_dtype(like, stored)

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        value = _load_first(context, builder, args[0], args[1], source)
        return converted(context, builder, value, source, like)

    return like(place, types.int64, stored, like), codegen


@intrinsic
def store_part_as(typingctx: Any, place: Any, value: Any, n: Any, stored: Any) -> Any:
    """Put the first `n` lanes of what `store_as` stores at a place; no more is written."""
    target = with_dtype(value, stored)

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        numbers = converted(context, builder, args[1], value, target)
        _store_first(builder, args[0], numbers, args[2], target)

    return types.void(place, value, types.int64, stored), codegen


@intrinsic
def convert(typingctx: Any, x: Any, like: Any) -> Any:
    """`x` in the dtype of `like`."""
    result = with_dtype(x, dtype_of(like))

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return converted(context, builder, args[0], x, result)

    return result(x, like), codegen


@intrinsic
def bits_register(typingctx: Any, like: Any) -> Any:
    """A register of int32 zeros with as many lanes as `like`."""
    result = Vector(types.int32, like.lanes)

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return ir.Constant(context.get_value_type(result), [0] * result.lanes)

    return result(like), codegen


@intrinsic
def lanes_of(typingctx: Any, like: Any) -> Any:
    """How many lanes a register has."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return context.get_constant(types.int64, like.lanes)

    return types.int64(like), codegen


@intrinsic
def size_of(typingctx: Any, like: Any) -> Any:
    """Bytes of a number, or of a whole register."""
    lanes = like.lanes if isinstance(like, Vector) else 1
    size = lanes * dtype_of(like).bitwidth // 8

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        return context.get_constant(types.int64, size)

    return types.int64(like), codegen


@intrinsic
def call_at(typingctx: Any, function: Any, args: Any) -> Any:
    """Call the C function at an address with a tuple of numbers and places; it returns nothing."""

    def codegen(context: Any, builder: Any, sig: Signature, values: Any) -> Any:
        operands = [
            builder.ptrtoint(value, _INT64) if isinstance(ty, Pointer) else value
            for value, ty in zip(cgutils.unpack_tuple(builder, values[1]), args, strict=True)
        ]
        ty = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
        builder.call(builder.inttoptr(values[0], ty.as_pointer()), operands)

    return types.void(function, args), codegen
