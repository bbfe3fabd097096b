"""What a GPU can do and Numba cannot say: the few instructions that kernels are made of.

A kernel gets addresses and byte strides as int64, and reads and writes memory through the functions
of a :class:`Storage` alone. Numbers are computed in float32 (float64 for float64). Porting the
kernels to another compiler means writing this file again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

FULL_WARP = 0xFFFFFFFF
VECTOR_BYTES = 16

_I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
_F16, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
_GLOBAL = 1  # LLVM's address space of global memory
_WORDS = ir.VectorType(_I32, 4)

inlined = functools.partial(cuda.jit, device=True, inline="always")
"""Decorates what kernels call: merged with the kernel before it is typed."""


# ---- arithmetic -----------------------------------------------------------------------------


def _assembly(builder: Any, result: Any, text: str, constraints: str, *args: Any) -> Any:
    signature = ir.FunctionType(result, [a.type for a in args])
    return builder.call(ir.InlineAsm(signature, text, constraints), args)


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    signature = ir.FunctionType(result, [a.type for a in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, signature, name)
    return builder.call(function, args)


def _narrower(a: Any, b: Any) -> Any:
    """The type of two operands one of which may be a Python literal, which is float64."""
    return a if getattr(a, "bitwidth", 0) <= getattr(b, "bitwidth", 0) else b


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once."""
    ty = max((a, b, c), key=lambda t: t.bitwidth)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        args = [
            context.cast(builder, arg, own, ty)
            for arg, own in zip(args, signature.args, strict=True)
        ]
        name = "llvm.fma.f32" if ty is types.float32 else "llvm.fma.f64"
        return _call(builder, name, args[0].type, *args)

    return ty(a, b, c), generate


@intrinsic
def where(typing: Any, condition: Any, a: Any, b: Any) -> Any:
    """``a`` where the condition holds, else ``b``; a literal takes the type of the other."""
    ty = _narrower(a, b)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        choices = [
            context.cast(builder, arg, own, ty)
            for arg, own in zip(args[1:], signature.args[1:], strict=True)
        ]
        return builder.select(args[0], *choices)

    return ty(types.boolean, a, b), generate


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """The larger of two numbers of one type, NaN if either is NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if a is types.float32:
            return _assembly(builder, _F32, "max.NaN.f32 $0, $1, $2;", "=f,f,f", *args)
        first, second = args
        larger = builder.select(builder.fcmp_ordered(">", first, second), first, second)
        return builder.select(builder.fcmp_unordered("uno", first, first), first, larger)

    return a(a, a), generate


@intrinsic
def larger(typing: Any, a: Any, b: Any) -> Any:
    """The larger of two float32, the other one if either is NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _assembly(builder, _F32, "max.f32 $0, $1, $2;", "=f,f,f", *args)

    return a(a, a), generate


@intrinsic
def exp2(typing: Any, x: Any) -> Any:
    """``2**x`` in float32, within 2 ulp, subnormal results included."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _assembly(builder, _F32, "ex2.approx.f32 $0, $1;", "=f,f", *args)

    return types.float32(types.float32), generate


@intrinsic
def reciprocal(typing: Any, x: Any) -> Any:
    """``1 / x``: within 1 ulp in float32, where x must be normal; rounded in float64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if x is types.float32:
            return _assembly(builder, _F32, "rcp.approx.ftz.f32 $0, $1;", "=f,f", *args)
        return _assembly(builder, _F64, "rcp.rn.f64 $0, $1;", "=d,d", *args)

    return x(x), generate


def _bitcast(name: str, pairs: dict[Any, Any]) -> Any:
    def describe(typing: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(pairs[x]))

        return pairs[x](x), generate

    describe.__name__ = name
    return intrinsic(describe)


bits = _bitcast("bits", {types.float32: types.int32, types.float64: types.int64})
from_bits = _bitcast("from_bits", {types.int32: types.float32, types.int64: types.float64})


@intrinsic
def to_float(typing: Any, i: Any) -> Any:
    """An integer converted to the float of its width."""
    ty = {types.int32: types.float32, types.int64: types.float64}[i]

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sitofp(args[0], context.get_value_type(ty))

    return ty(i), generate


@intrinsic
def to_int32(typing: Any, i: Any) -> Any:
    """The low 32 bits of an integer: columns are counted in them."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.trunc(args[0], _I32) if i.bitwidth > 32 else args[0]

    return types.int32(i), generate


@intrinsic
def widen(typing: Any, x: Any) -> Any:
    """The same value in float64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], x, types.float64)

    return types.float64(x), generate


# ---- clusters of blocks ----------------------------------------------------------------------


@intrinsic
def cluster_barrier(typing: Any) -> Any:
    """Wait until all threads of the cluster are here and see what they have written."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        text = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(ir.InlineAsm(kind, text, "~{memory}", side_effect=True), [])

    return types.void(), generate


@intrinsic
def remote(typing: Any, array: Any, index: Any, rank: Any) -> Any:
    """An element of an array in the shared memory of a block of the cluster."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(array)(context, builder, args[0]).data
        own = builder.ptrtoint(builder.gep(data, [args[1]]), _I64)
        number, letter, size = (_F32, "f", 32) if array.dtype is types.float32 else (_F64, "d", 64)
        text = f"{{.reg .u64 %there; mapa.u64 %there, $1, $2; ld.f{size} $0, [%there];}}"
        kind = ir.FunctionType(number, [_I64, _I32])
        code = ir.InlineAsm(kind, text, f"={letter},l,r,~{{memory}}", side_effect=True)
        return builder.call(code, [own, builder.trunc(args[2], _I32)])

    return array.dtype(array, types.int64, types.int64), generate


# ---- memory ---------------------------------------------------------------------------------


def _pointer(builder: Any, address: Any, ty: Any) -> Any:
    return builder.inttoptr(address, ty.as_pointer(_GLOBAL))


def _halves(builder: Any, words: Any) -> list[Any]:
    pairs = builder.bitcast(words, ir.VectorType(_F16, 8))
    return [builder.fpext(builder.extract_element(pairs, _I32(i)), _F32) for i in range(8)]


def _brain_floats(builder: Any, words: Any) -> list[Any]:
    numbers = []
    for i in range(4):
        word = builder.extract_element(words, _I32(i))
        numbers.append(builder.bitcast(builder.shl(word, _I32(16)), _F32))
        numbers.append(builder.bitcast(builder.and_(word, _I32(0xFFFF0000)), _F32))
    return numbers


def _lanes_of(ty: Any, n: int) -> Callable[..., list[Any]]:
    def split(builder: Any, words: Any) -> list[Any]:
        vector = builder.bitcast(words, ir.VectorType(ty, n))
        return [builder.extract_element(vector, _I32(i)) for i in range(n)]

    return split


def _together(ty: Any) -> Callable[..., Any]:
    def join(builder: Any, numbers: list[Any]) -> Any:
        vector = ir.Constant(ir.VectorType(ty, len(numbers)), ir.Undefined)
        for i, number in enumerate(numbers):
            vector = builder.insert_element(vector, number, _I32(i))
        return builder.bitcast(vector, _WORDS)

    return join


def _join_halves(builder: Any, numbers: list[Any]) -> Any:
    return _together(_F16)(builder, [builder.fptrunc(x, _F16) for x in numbers])


def _brain_pair(builder: Any, low: Any, high: Any) -> Any:
    return _assembly(builder, _I32, "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f", high, low)


def _join_brain_floats(builder: Any, numbers: list[Any]) -> Any:
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return _together(_I32)(builder, [_brain_pair(builder, *pair) for pair in pairs])


def _widen_brain_float(builder: Any, word: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(word, _I32), _I32(16)), _F32)


def _narrow_to_brain_float(builder: Any, x: Any) -> Any:
    return builder.trunc(_brain_pair(builder, x, ir.Constant(_F32, 0.0)), _I16)


def _same(builder: Any, x: Any) -> Any:
    return x


class _Format(NamedTuple):
    """How one number, and a vector of them, lie in memory."""

    memory: Any
    number: Any
    widen: Callable[..., Any]
    narrow: Callable[..., Any] | None
    split: Callable[..., list[Any]] | None = None
    join: Callable[..., Any] | None = None
    minus_infinity: tuple[int, int] = (0, 0)


def _resized(extend: str, memory: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """How an integer becomes one of 64 bits, and what is left of one of those."""
    return (
        lambda builder, x: getattr(builder, extend)(x, _I64),
        lambda builder, x: builder.trunc(x, memory),
    )


_FORMATS = {
    "float32": _Format(
        _F32, types.float32, _same, _same, _lanes_of(_F32, 4), _together(_F32), (0xFF800000,) * 2
    ),
    "float64": _Format(
        _F64, types.float64, _same, _same, _lanes_of(_F64, 2), _together(_F64), (0, 0xFFF00000)
    ),
    "float16": _Format(
        _F16,
        types.float32,
        lambda builder, x: builder.fpext(x, _F32),
        lambda builder, x: builder.fptrunc(x, _F16),
        _halves,
        _join_halves,
        (0xFC00FC00,) * 2,
    ),
    "bfloat16": _Format(
        _I16,
        types.float32,
        _widen_brain_float,
        _narrow_to_brain_float,
        _brain_floats,
        _join_brain_floats,
        (0xFF80FF80,) * 2,
    ),
    "int64": _Format(_I64, types.int64, _same, _same),
    "int32": _Format(_I32, types.int64, *_resized("sext", _I32)),
    "int16": _Format(_I16, types.int64, *_resized("sext", _I16)),
    "int8": _Format(_I8, types.int64, *_resized("sext", _I8)),
    "uint64": _Format(_I64, types.uint64, _same, _same),
    "uint32": _Format(_I32, types.int64, *_resized("zext", _I32)),
    "uint16": _Format(_I16, types.int64, *_resized("zext", _I16)),
    "uint8": _Format(_I8, types.int64, *_resized("zext", _I8)),
    "bool": _Format(
        _I8,
        types.boolean,
        lambda builder, x: builder.icmp_unsigned("!=", x, _I8(0)),
        lambda builder, x: builder.zext(x, _I8),
    ),
}

SIZES = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of each dtype that kernels read."""


class Storage(NamedTuple):
    """Memory of one dtype, read and written as numbers of another.

    Attributes
    ----------
    size
        Bytes of an element.
    lanes
        Elements of a vector of 16 bytes.
    load
        ``load(address)``: one number.
    store
        ``store(address, number)``; None for integers.
    load_words
        ``load_words(address, words, k)`` reads 16 aligned bytes into the k-th four of a local array
        of int32. Nothing is done with them, so that the next load need not wait.
    no_words
        ``no_words(words, k, masked)`` has them stand for -inf, or for 0.
    unpack
        ``unpack(words, k, numbers)``: the numbers that they are, as the k-th of a local array.
    store_vector
        ``store_vector(address, numbers, k)`` writes those as 16 aligned bytes.
    """

    size: int
    lanes: int
    load: Any
    store: Any
    load_words: Any
    no_words: Any
    unpack: Any
    store_vector: Any


@functools.cache
def storage(name: str, number: str) -> Storage:
    """How memory of dtype `name` is read and written as float32 or float64, or as int64."""
    form = _FORMATS[name]
    wanted = getattr(types, number)
    size, lanes = SIZES[name], VECTOR_BYTES // SIZES[name]

    def to_wanted(context: Any, builder: Any, x: Any) -> Any:
        return context.cast(builder, x, form.number, wanted)

    def from_wanted(context: Any, builder: Any, x: Any) -> Any:
        return context.cast(builder, x, wanted, form.number)

    def place_in(
        context: Any, builder: Any, ty: Any, array: Any, k: Any, width: int, i: int
    ) -> Any:
        """Where element i of the k-th group of a local array is."""
        data = context.make_array(ty)(context, builder, array).data
        return builder.gep(data, [builder.add(builder.mul(k, _I64(width)), _I64(i))])

    def element(
        context: Any, builder: Any, signature: Any, args: Any, which: int, width: int, i: int
    ) -> Any:
        ty = signature.args[which]
        return place_in(context, builder, ty, args[which], args[which + 1], width, i)

    @intrinsic
    def load(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(builder, args[0], form.memory)
            raw = builder.load(pointer, align=size)
            return to_wanted(context, builder, form.widen(builder, raw))

        return wanted(types.int64), generate

    @intrinsic
    def store(typing: Any, address: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            assert form.narrow is not None
            raw = form.narrow(builder, from_wanted(context, builder, args[1]))
            builder.store(raw, _pointer(builder, args[0], form.memory), align=size)

        return types.void(types.int64, wanted), generate

    @intrinsic
    def load_words(typing: Any, address: Any, words: Any, k: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loaded = builder.load(_pointer(builder, args[0], _WORDS), align=VECTOR_BYTES)
            for i in range(4):
                place = element(context, builder, signature, args, 1, 4, i)
                builder.store(builder.extract_element(loaded, _I32(i)), place)

        return types.void(types.int64, words, types.int64), generate

    @intrinsic
    def no_words(typing: Any, words: Any, k: Any, masked: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            for i in range(4):
                masked = builder.zext(args[2], _I32)
                pattern = builder.mul(masked, _I32(form.minus_infinity[i % 2]))
                builder.store(pattern, element(context, builder, signature, args, 0, 4, i))

        return types.void(words, types.int64, types.boolean), generate

    @intrinsic
    def unpack(typing: Any, words: Any, k: Any, numbers: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            assert form.split is not None
            loaded = ir.Constant(_WORDS, ir.Undefined)
            for i in range(4):
                word = builder.load(element(context, builder, signature, args, 0, 4, i))
                loaded = builder.insert_element(loaded, word, _I32(i))
            at = (args[2], args[1])
            for i, x in enumerate(form.split(builder, loaded)):
                place = place_in(context, builder, signature.args[2], *at, lanes, i)
                builder.store(to_wanted(context, builder, x), place)

        return types.void(words, types.int64, numbers), generate

    @intrinsic
    def store_vector(typing: Any, address: Any, numbers: Any, k: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            assert form.join is not None
            xs = [
                builder.load(element(context, builder, signature, args, 1, lanes, i))
                for i in range(lanes)
            ]
            words = form.join(builder, [from_wanted(context, builder, x) for x in xs])
            builder.store(words, _pointer(builder, args[0], _WORDS), align=VECTOR_BYTES)

        return types.void(types.int64, numbers, types.int64), generate

    return Storage(size, lanes, load, store, load_words, no_words, unpack, store_vector)
