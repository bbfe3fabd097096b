"""Blocks of memory transposed on their way into registers, or out of them.

With few, contiguous classes a register that holds one class of many examples is gathered from as
many places. A block of `width` classes is read instead with one load of `width` numbers for each
example, and turned in registers by ``log2(width)`` rounds of shuffles.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from .intrinsics import converted, shuffled
from .vector import Vector, dtype_of, with_dtype

READ, WRITE = 4, 8
"""The widest blocks that are read and written. Four classes of 16 examples are loaded straight to
their quarters of registers; but whole rows of a wide block are written at once."""

_INT64 = ir.IntType(64)


def _transpose(builder: Any, registers: list[Any], lanes: int) -> list[Any]:
    """Transpose every block of as many lanes as there are registers: its own inverse."""
    width = len(registers)
    step = 1
    while step < width:
        # Swap what lies off the diagonal in blocks of 2 * step: the upper right, the lower left.
        low = [k if not k & step else lanes + k - step for k in range(lanes)]
        high = [k + step if not k & step else lanes + k for k in range(lanes)]
        registers = [
            shuffled(builder, registers[j], registers[j | step], low)
            if not j & step
            else shuffled(builder, registers[j ^ step], registers[j], high)
            for j in range(width)
        ]
        step *= 2
    return registers


def _join(builder: Any, parts: list[Any], lanes: int) -> Any:
    """Vectors of `lanes` elements, a power of two of them, one after the other in one vector."""
    while len(parts) > 1:
        lanes *= 2
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [shuffled(builder, a, b, range(lanes)) for a, b in pairs]
    return parts[0]


def _places(builder: Any, address: Any, step: Any, count: int, ty: Any) -> list[Any]:
    """Pointers to vectors at regular steps."""
    # Four from each of a few bases: the processor adds one or two steps, and three are one number.
    steps = [builder.mul(step, _INT64(i)) for i in range(5)]
    places: list[Any] = []
    for i in range(count):
        if i > 0 and i % 4 == 0:
            address = builder.gep(address, [steps[4]])
        places.append(builder.bitcast(builder.gep(address, [steps[i % 4]]), ty.as_pointer()))
    return places


def _for_each_width(builder: Any, width: Any, most: int, emit: Any) -> None:
    """Code for every width that there may be; the one that is met is run."""
    classes = 2
    while classes <= most:
        with builder.if_then(builder.icmp_signed("==", width, _INT64(classes))):
            emit(classes)
        classes *= 2


@intrinsic
def read_block(
    typingctx: Any,
    address: Any,
    step: Any,
    stored: Any,
    buffer: Any,
    stride: Any,
    like: Any,
    width: Any,
) -> Any:
    """Copy `width` numbers of each example, `step` bytes apart, to as many registers like `like`.

    The width is a power of two, from 2 to the lanes of a register. The numbers, of the type of
    `stored`, are converted. Register ``j``, at ``buffer + j * stride``, receives the ``j``-th
    number of every example.
    """

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        place, step, _, target, stride, _, width = args
        result = context.get_value_type(like)
        source = with_dtype(like, dtype_of(stored))

        def emit(classes: int) -> None:
            piece = Vector(dtype_of(stored), classes)
            ty = context.get_value_type(piece)
            places = _places(builder, place, step, like.lanes, ty)
            pieces = [builder.load(at, align=piece.dtype.bitwidth // 8) for at in places]
            joined = [_join(builder, pieces[j::classes], classes) for j in range(classes)]
            registers = [converted(context, builder, one, source, like) for one in joined]
            turned = _transpose(builder, registers, like.lanes)
            slots = _places(builder, target, stride, classes, result)
            for register, slot in zip(turned, slots, strict=True):
                builder.store(register, slot, align=like.dtype.bitwidth // 8)

        _for_each_width(builder, width, READ, emit)

    return types.void(address, types.int64, stored, buffer, types.int64, like, types.int64), codegen


@intrinsic
def write_block(
    typingctx: Any,
    address: Any,
    step: Any,
    stored: Any,
    buffer: Any,
    stride: Any,
    like: Any,
    width: Any,
) -> Any:
    """The reverse of `read_block`: registers to `width` numbers of each example."""

    def codegen(context: Any, builder: Any, sig: Signature, args: Any) -> Any:
        place, step, _, source, stride, _, width = args
        target = with_dtype(like, dtype_of(stored))

        def emit(classes: int) -> None:
            piece = Vector(dtype_of(stored), classes)
            slots = _places(builder, source, stride, classes, context.get_value_type(like))
            registers = [builder.load(slot, align=like.dtype.bitwidth // 8) for slot in slots]
            places = _places(builder, place, step, like.lanes, context.get_value_type(piece))
            for j, register in enumerate(_transpose(builder, registers, like.lanes)):
                value = converted(context, builder, register, like, target)
                for i, at in enumerate(places[j::classes]):
                    part = shuffled(builder, value, value, range(i * classes, (i + 1) * classes))
                    builder.store(part, at, align=piece.dtype.bitwidth // 8)

        _for_each_width(builder, width, min(WRITE, like.lanes), emit)

    return types.void(address, types.int64, stored, buffer, types.int64, like, types.int64), codegen
