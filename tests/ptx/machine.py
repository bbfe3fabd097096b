"""Runs a grid of threads in lock step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arithmetic import (
    APPROXIMATE,
    BINARY,
    COMPARISONS,
    DTYPES,
    UNARY,
    convert,
    fma,
    to_bfloat16,
)
from .memory import Fault, Memory, Space
from .program import Instruction, Program

WARP = 32
SECTOR = 32
SHARED_WINDOW = 1 << 24
"""Where shared memory lies in the generic address space."""

_MASK = (1 << 64) - 1
_RUNNING, _WAITING, _DONE = 0, 1, 2


@dataclass
class Counts:
    """What a launch has moved and executed.

    Attributes
    ----------
    instructions
        Instructions, once for each warp that executes them.
    requests
        Accesses to global memory, once for each warp.
    loaded, stored
        Bytes asked for.
    sectors
        Different sectors of 32 bytes in each request, added up.
    cold
        Different sectors that were loaded, and those that were stored, in the whole launch.
    """

    instructions: int = 0
    requests: int = 0
    loaded: int = 0
    stored: int = 0
    sectors: int = 0
    cold: dict[str, set[int]] = field(default_factory=lambda: {"ld": set(), "st": set()})

    @property
    def dram(self) -> int:
        """Bytes of the sectors that were touched, as if caches were empty and without limit."""
        return SECTOR * (len(self.cold["ld"]) + len(self.cold["st"]))


def launch(
    program: Program,
    memory: Memory,
    grid: Sequence[int],
    block: Sequence[int],
    arguments: Sequence[Any],
    *,
    only: tuple[int, int] | None = None,
    approx_ulp: int = 0,
    limit: int = 200_000,
) -> Counts:
    """Run a kernel.

    Parameters
    ----------
    program, memory
        The kernel, and what it works on.
    grid, block
        Blocks and threads along x, y and z.
    arguments
        A number for each parameter.
    only
        The first block to run and how many, where there are too many; default all.
    approx_ulp
        By how many units in the last place approximate instructions may be wrong, at random.
    limit
        After so many instructions a kernel is taken to run forever.

    Raises
    ------
    Fault
        If it does what it must not.
    """
    with np.errstate(all="ignore"):
        machine = _Machine(program, memory, grid, block, arguments, only, approx_ulp)
        machine.run(limit)
    return machine.counts


def _three(sizes: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


class _Machine:
    def __init__(
        self,
        program: Program,
        memory: Memory,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        only: tuple[int, int] | None,
        approx_ulp: int,
    ) -> None:
        self.program, self.memory = program, memory
        self.approx_ulp, self.random = approx_ulp, np.random.default_rng(0)
        grid3, block3 = _three(grid), _three(block)
        self.block_size = int(np.prod(block3))
        if program.max_threads and self.block_size > program.max_threads:
            raise Fault(f"blocks of {self.block_size} threads, .maxntid is {program.max_threads}")
        if self.block_size % WARP:
            raise Fault("a block is not a whole number of warps")
        if len(arguments) != len(program.parameters):
            raise Fault(f"{len(arguments)} arguments for {len(program.parameters)} parameters")
        first, blocks = only or (0, int(np.prod(grid3)))
        self.n = self.block_size * blocks
        self.threads = np.arange(self.n)
        self.block_of = self.threads // self.block_size
        index, thread = self.block_of + first, self.threads % self.block_size
        self.special = {
            **_coordinates("%ctaid", index, grid3),
            **_coordinates("%tid", thread, block3),
            **{f"%ntid.{a}": np.full(self.n, v, np.uint32) for a, v in zip("xyz", block3)},  # noqa: B905
            **{f"%nctaid.{a}": np.full(self.n, v, np.uint32) for a, v in zip("xyz", grid3)},  # noqa: B905
            "%laneid": (thread % WARP).astype(np.uint32),
        }
        self.arguments = {
            name: np.asarray(value if kind[0] == "f" else value & _MASK, DTYPES[kind])
            for (name, kind), value in zip(program.parameters, arguments, strict=True)
        }
        self.registers: dict[str, np.ndarray] = {}
        self.counter = np.zeros(self.n, np.int64)
        self.status = np.full(self.n, _RUNNING)
        self.time = np.zeros(self.n, np.int64)  # barriers that a thread has passed
        self.shared = Space(program.shared_size * blocks, "shared memory")
        self.shared.allowed[:] = self.shared.writable[:] = True
        memory.space.forget()
        self.counts = Counts()

    # ---- the schedule -----------------------------------------------------------------------

    def run(self, limit: int) -> None:
        for _ in range(limit):
            running = self.status == _RUNNING
            if not running.any():
                if (self.status == _DONE).all():
                    return
                self._release()
                continue
            at = int(self.counter[running].min())
            active = np.flatnonzero(running & (self.counter == at))
            instruction = self.program.instructions[at]
            try:
                self._step(instruction, active, at)
            except Fault as fault:
                raise Fault(f"{fault} [{instruction.text}]") from None
        raise Fault(f"no end after {limit} instructions")

    def _release(self) -> None:
        """All threads wait: let the blocks go on whose threads are all at one barrier."""
        waiting = self.status == _WAITING
        for block in np.unique(self.block_of[waiting]):
            here = self.block_of == block
            if not waiting[here].all():
                raise Fault("divergent barrier: some threads of the block have ended")
            if len(np.unique(self.counter[here])) > 1:
                raise Fault("divergent barrier: the threads of the block are at different ones")
        self.status[waiting] = _RUNNING
        self.time[waiting] += 1

    def _step(self, instruction: Instruction, active: np.ndarray, at: int) -> None:
        self.counter[active] = at + 1
        if instruction.guard is not None:
            name, wanted = instruction.guard
            active = active[self.registers[name][active] == wanted]
            if not len(active):
                return
        self.counts.instructions += self._warps(active)
        special = getattr(self, f"_{instruction.op}", None)
        if special is not None:
            special(instruction, active)
        else:
            self._compute(instruction, active)

    def _warps(self, active: np.ndarray) -> int:
        return len(np.unique(active // WARP)) if len(active) < self.n else self.n // WARP

    # ---- operands ---------------------------------------------------------------------------

    def _get(self, operand: Any, kind: str, active: np.ndarray) -> np.ndarray:
        dtype = DTYPES[kind]
        if isinstance(operand, str):
            if operand in self.program.shared:
                return np.full(len(active), self.program.shared[operand], dtype)
            source = self.special if operand in self.special else self.registers
            if operand not in source:
                raise Fault(f"register {operand} is read before it is written")
            value = source[operand][active]
            if value.dtype == dtype:
                return value
            if value.dtype.itemsize == dtype.itemsize:
                return value.view(dtype)
            return value.view(f"u{value.dtype.itemsize}").astype(f"u{dtype.itemsize}").view(dtype)
        if isinstance(operand, int):
            mask = (1 << 8 * dtype.itemsize) - 1
            if dtype == bool:
                return np.full(len(active), bool(operand))
            if dtype.kind == "f":
                return np.full(len(active), operand, dtype)
            raw = np.array(operand & mask, f"u{dtype.itemsize}")
            return np.full(len(active), raw).view(dtype)
        value = np.full(len(active), operand)
        return value if value.dtype == dtype else value.view(dtype)

    def _set(self, name: str, value: np.ndarray, active: np.ndarray) -> None:
        if name == "_":
            return
        old = self.registers.get(name)
        if len(active) == self.n:
            self.registers[name] = value
            return
        if old is None:
            old = np.zeros(self.n, value.dtype)
        elif old.dtype != value.dtype:
            if old.dtype.itemsize != value.dtype.itemsize:
                raise Fault(f"register {name} changes its size")
            old = old.view(value.dtype)
        else:
            old = old.copy()
        old[active] = value
        self.registers[name] = old

    # ---- arithmetic -------------------------------------------------------------------------

    def _compute(self, i: Instruction, active: np.ndarray) -> None:
        dtype = DTYPES.get(i.type)
        if dtype is None:
            raise NotImplementedError(i.text)
        target, *sources = i.operands
        kinds = [i.type] * len(sources)
        if i.op in ("shl", "shr"):
            kinds[1] = "u32"
        values = [self._get(s, k, active) for s, k in zip(sources, kinds, strict=True)]
        if i.op in ("mul", "mad", "fma"):
            result = self._multiply(i, values)
        elif i.op in BINARY:
            try:
                result = BINARY[i.op](values[0], values[1], i.modifiers)
            except ZeroDivisionError:
                raise Fault("division by zero") from None
        elif i.op in UNARY:
            result = UNARY[i.op](values[0], i.modifiers)
            if i.op in APPROXIMATE and self.approx_ulp and "approx" in i.modifiers:
                wrong = self.random.integers(-self.approx_ulp, self.approx_ulp + 1, len(active))
                off = (result.view(np.int32) + wrong.astype(np.int32)).view(np.float32)
                result = np.where(np.isfinite(result) & (result != 0), off, result)
        else:
            raise NotImplementedError(i.text)
        self._set(target, _flushed(np.asarray(result), i), active)

    def _multiply(self, i: Instruction, values: list[np.ndarray]) -> np.ndarray:
        a, b = values[:2]
        if a.dtype.kind == "f":
            return a * b if i.op == "mul" else fma(a, b, values[2])
        if "wide" in i.modifiers:
            wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
            product = a.astype(wide) * b.astype(wide)
            return product if i.op == "mul" else product + values[2].astype(wide)
        if "hi" in i.modifiers:
            shift = 8 * a.dtype.itemsize
            whole = [int(x) * int(y) >> shift for x, y in zip(a, b, strict=True)]
            return np.array(whole, a.dtype)
        return a * b if i.op == "mul" else a * b + values[2]

    def _setp(self, i: Instruction, active: np.ndarray) -> None:
        target, a, b, *more = i.operands
        compare = next(m for m in i.modifiers if m in COMPARISONS)
        result = COMPARISONS[compare](self._get(a, i.type, active), self._get(b, i.type, active))
        if more:
            combine = BINARY[next(m for m in i.modifiers if m in ("and", "or", "xor"))]
            result = combine(result, self._get(more[0], "pred", active), ())
        self._set(target, result, active)

    def _selp(self, i: Instruction, active: np.ndarray) -> None:
        target, a, b, condition = i.operands
        chosen = np.where(
            self._get(condition, "pred", active),
            self._get(a, i.type, active),
            self._get(b, i.type, active),
        )
        self._set(target, chosen, active)

    def _bfi(self, i: Instruction, active: np.ndarray) -> None:
        target, a, b, position, length = i.operands
        dtype = DTYPES[i.type]
        mask = np.array(((1 << length) - 1) << position, dtype)
        moved = self._get(a, i.type, active) << np.array(position, dtype)
        self._set(target, (self._get(b, i.type, active) & ~mask) | (moved & mask), active)

    def _mov(self, i: Instruction, active: np.ndarray) -> None:
        target, source = i.operands
        if isinstance(target, list):
            part = DTYPES[i.type].itemsize // len(target)
            words = self._get(source, i.type, active).view(f"u{part}").reshape(-1, len(target))
            for k, name in enumerate(target):
                self._set(name, words[:, k].copy(), active)
        elif isinstance(source, list):
            part = f"b{8 * DTYPES[i.type].itemsize // len(source)}"
            words = np.stack([self._get(s, part, active) for s in source], -1)
            self._set(target, np.ascontiguousarray(words).view(DTYPES[i.type])[:, 0], active)
        else:
            self._set(target, self._get(source, i.type, active), active)

    def _cvt(self, i: Instruction, active: np.ndarray) -> None:
        target, *sources = i.operands
        to, kind = i.modifiers[-1], i.type
        values = [self._get(s, kind, active) for s in sources]
        if to == "bf16x2":
            high, low = (to_bfloat16(v).astype(np.uint32) for v in values)
            result = high << 16 | low
        elif to == "f16x2":
            high, low = (v.astype(np.float16).view(np.uint16).astype(np.uint32) for v in values)
            result = high << 16 | low
        else:
            result = convert(values[0], DTYPES[to], i.modifiers)
        self._set(target, result, active)

    def _cvta(self, i: Instruction, active: np.ndarray) -> None:
        target, source = i.operands
        value = self._get(source, i.type, active)
        if "shared" in i.modifiers:
            value = value - SHARED_WINDOW if "to" in i.modifiers else value + SHARED_WINDOW
        self._set(target, value, active)

    # ---- control ----------------------------------------------------------------------------

    def _bra(self, i: Instruction, active: np.ndarray) -> None:
        self.counter[active] = self.program.labels[i.operands[0] if i.operands else i.type]

    def _ret(self, i: Instruction, active: np.ndarray) -> None:
        self.status[active] = _DONE

    _exit = _ret

    def _bar(self, i: Instruction, active: np.ndarray) -> None:
        if "warp" in i.modifiers:
            self._take_part(self._get(i.operands[0], "u32", active), active)
        else:
            self.status[active] = _WAITING

    _barrier = _bar

    def _take_part(self, masks: np.ndarray, active: np.ndarray) -> None:
        """Check that the lanes of each mask execute this instruction together."""
        warps, lanes = active // WARP, active % WARP
        present = np.zeros(self.n // WARP, np.uint64)
        np.bitwise_or.at(present, warps, np.uint64(1) << lanes.astype(np.uint64))
        wide = masks.astype(np.uint64)
        if ((wide >> lanes.astype(np.uint64)) & np.uint64(1) == 0).any():
            raise Fault("a lane is not in its own mask")
        if (wide & ~present[warps]).any():
            raise Fault("a mask names lanes that do not take part")

    def _shfl(self, i: Instruction, active: np.ndarray) -> None:
        target, source, offset, clamp, mask = i.operands
        mode = i.modifiers[-1]
        self._take_part(self._get(mask, "u32", active), active)
        by = self._get(offset, "u32", active).astype(np.int64)
        bounds = self._get(clamp, "u32", active).astype(np.int64)
        lane = active % WARP
        segment = bounds >> 8 & 31
        first, last = lane & segment, (lane & segment) | (bounds & 31 & ~segment)
        wanted = {
            "bfly": lane ^ by, "up": lane - by, "down": lane + by,
            "idx": first | (by & ~segment),
        }[mode]  # fmt: skip
        good = wanted >= last if mode == "up" else wanted <= last
        wanted = np.where(good, wanted, lane)
        everyone = np.zeros(self.n, DTYPES[i.type])
        everyone[active] = self._get(source, i.type, active)
        here = np.zeros(self.n, bool)
        here[active] = True
        other = active - lane + wanted
        if not here[other].all():
            raise Fault("a shuffle reads from a lane that does not take part")
        self._set(target, everyone[other], active)

    # ---- memory -----------------------------------------------------------------------------

    def _space_of(self, i: Instruction, active: np.ndarray, address: Any) -> Any:
        base, offset = address
        at = self._get(base, "u64", active).view(np.int64) + offset
        if "shared" in i.modifiers:
            generic = np.ones(len(active), bool)
        elif "global" in i.modifiers:
            return self.memory.space, at - self.memory.base
        else:
            generic = at < self.memory.base // 2
            at = np.where(generic, at - SHARED_WINDOW, at)
        if not generic.any():
            return self.memory.space, at - self.memory.base
        if ((at < 0) | (at >= self.program.shared_size)).any():
            raise Fault("shared memory: out of bounds")
        return self.shared, at + self.block_of[active] * self.program.shared_size

    def _count(self, i: Instruction, at: np.ndarray, size: int, active: np.ndarray) -> None:
        counts = self.counts
        counts.requests += self._warps(active)
        if i.op == "ld":
            counts.loaded += size * len(active)
        else:
            counts.stored += size * len(active)
        sectors = np.unique((at[:, None] + np.arange(0, size, min(size, 4))) // SECTOR, axis=None)
        counts.cold[i.op].update(sectors.tolist())
        per_warp = (active // WARP)[:, None] << 40 | (at[:, None] + np.arange(0, size, 4)) // SECTOR
        counts.sectors += len(np.unique(per_warp))

    def _ld(self, i: Instruction, active: np.ndarray) -> None:
        target, address = i.operands
        if "param" in i.modifiers:
            value = self.arguments[address[0]]
            self._set(target, np.full(len(active), value).view(DTYPES[i.type]), active)
            return
        targets = target if isinstance(target, list) else [target]
        dtype = DTYPES[i.type]
        space, at = self._space_of(i, active, address)
        size = dtype.itemsize * len(targets)
        rows = space.load(at, size, active, self.block_of[active], self.time[active])
        if space is self.memory.space:
            self._count(i, at, size, active)
        words = rows.view(dtype)
        for k, name in enumerate(targets):
            value = words[:, k].copy()
            if dtype.itemsize == 1:
                value = value.astype(np.int16 if dtype.kind == "i" else np.uint16)
            self._set(name, value, active)

    def _st(self, i: Instruction, active: np.ndarray) -> None:
        address, source = i.operands
        sources = source if isinstance(source, list) else [source]
        space, at = self._space_of(i, active, address)
        words = np.stack([self._get(s, i.type, active) for s in sources], -1)
        data = np.ascontiguousarray(words).view(np.uint8).reshape(len(active), -1)
        space.store(at, data, active, self.block_of[active], self.time[active])
        if space is self.memory.space:
            self._count(i, at, data.shape[1], active)


def _flushed(result: np.ndarray, i: Instruction) -> np.ndarray:
    """``.ftz``: subnormal results are zeros."""
    if "ftz" in i.modifiers and result.dtype == np.float32:
        return np.where(np.abs(result) < np.finfo(np.float32).tiny, result * 0, result)
    return result


def _coordinates(name: str, index: np.ndarray, shape: tuple[int, int, int]) -> dict[str, Any]:
    x, y, _ = shape
    axes = (index % x, index // x % y, index // (x * y))
    return {f"{name}.{a}": v.astype(np.uint32) for a, v in zip("xyz", axes, strict=True)}
