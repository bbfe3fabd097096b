"""Runs a grid of threads in lock step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from .memory import SECTOR, Fault, Memory, Space
from .program import Instruction, Program

WARP = 32
SHARED_WINDOW = 1 << 26
"""Where shared memory lies in the generic address space: first the own, then that of each block."""
_WINDOW_BITS = 20

_MASK = (1 << 64) - 1
_RUNNING, _WAITING, _DONE = 0, 1, 2
_FAR = 1 << 60


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
    dram
        Bytes of the sectors that were touched, as if caches were empty and without limit.
    """

    instructions: int = 0
    requests: int = 0
    loaded: int = 0
    stored: int = 0
    sectors: int = 0
    dram: int = 0


def launch(
    program: Program,
    memory: Memory,
    grid: Sequence[int],
    block: Sequence[int],
    arguments: Sequence[Any],
    *,
    cluster: int = 1,
    only: tuple[int, int] | None = None,
    approx_ulp: int = 0,
    approx_sign: int = 0,
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
    cluster
        How many blocks along x make a cluster.
    only
        The first block to run and how many, where there are too many; default all.
    approx_ulp, approx_sign
        By how many units in the last place approximate instructions are wrong: by up to so many at
        random, or all by so many upwards (1) or downwards (-1).
    limit
        After so many instructions a kernel is taken to run forever.

    Raises
    ------
    Fault
        If it does what it must not.
    """
    with np.errstate(all="ignore"):
        machine = _Machine(program, memory, grid, block, arguments, cluster, only)
        machine.approx = approx_ulp, approx_sign
        machine.run(limit)
    touched = memory.space.sectors
    machine.counts.dram = SECTOR * sum(int(np.count_nonzero(t)) for t in touched.values())
    return machine.counts


def _three(sizes: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


class _Machine:
    approx: tuple[int, int] = (0, 0)

    def __init__(
        self, program: Program, memory: Memory, grid: Sequence[int], block: Sequence[int],
        arguments: Sequence[Any], cluster: int, only: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        self.program, self.memory, self.cluster = program, memory, cluster
        self.random = np.random.default_rng(0)
        grid3, block3 = _three(grid), _three(block)
        self.block_size = int(np.prod(block3))
        self.unit = self.block_size * cluster  # threads that a barrier may hold together
        if program.max_threads and self.block_size > program.max_threads:
            raise Fault(f"blocks of {self.block_size} threads, .maxntid is {program.max_threads}")
        if self.block_size % WARP:
            raise Fault("a block is not a whole number of warps")
        if grid3[0] % cluster:
            raise Fault("a grid is not a whole number of clusters")
        if len(arguments) != len(program.parameters):
            raise Fault(f"{len(arguments)} arguments for {len(program.parameters)} parameters")
        first, blocks = only or (0, int(np.prod(grid3)))
        self.n = self.block_size * blocks
        self.threads = np.arange(self.n)
        self.block_of = self.threads // self.block_size
        index, thread = self.block_of + first, self.threads % self.block_size
        sizes = {"%ntid": block3, "%nctaid": grid3}
        self.special = {
            **_coordinates("%ctaid", index, grid3),
            **_coordinates("%tid", thread, block3),
            **{f"{name}.{a}": np.full(self.n, v, np.uint32)
               for name, three in sizes.items() for a, v in zip("xyz", three, strict=True)},
            "%laneid": (thread % WARP).astype(np.uint32),
        }  # fmt: skip
        self.arguments = {
            name: np.asarray(value if kind[0] == "f" else value & _MASK, DTYPES[kind])
            for (name, kind), value in zip(program.parameters, arguments, strict=True)
        }
        self.registers: dict[str, np.ndarray] = {}
        self.constants: dict[Any, np.ndarray] = {}
        self.counter = np.zeros(self.n, np.int64)
        self.status = np.full(self.n, _RUNNING)
        self.arrived = np.zeros(self.n, bool)
        self.time = np.zeros(self.n, np.int64)  # barriers that a thread has passed
        self.shared = Space(program.shared_size * blocks, "shared memory")
        self.shared.allowed[:] = self.shared.writable[:] = True
        self.shared.forget(self.unit)
        memory.space.forget(self.unit)
        self.counts = Counts()

    # ---- the schedule -----------------------------------------------------------------------

    def run(self, limit: int) -> None:
        steps = 0
        while steps < limit:
            running = np.flatnonzero(self.status == _RUNNING)
            if not len(running):
                if (self.status == _DONE).all():
                    return
                self._release()
                continue
            at = int(self.counter[running].min())
            behind = self.counter[running] == at
            group, others = running[behind], self.counter[running[~behind]]
            meeting = int(others.min()) if len(others) else _FAR
            self.warps, self.jumped = self._warps(group), False
            while at < meeting and not self.jumped and steps < limit:
                instruction = self.program.instructions[at]
                steps, at = steps + 1, at + 1
                try:
                    self._step(instruction, group, at)
                except Fault as fault:
                    raise Fault(f"{fault} [{instruction.text}]") from None
            if not self.jumped:
                self.counter[group] = at
        raise Fault(f"no end after {limit} instructions")

    def _release(self) -> None:
        """All threads wait: let the units go on whose threads are all at one barrier."""
        waiting = self.status == _WAITING
        units = self.threads // self.unit
        for unit in np.unique(units[waiting]):
            here = units == unit
            if not waiting[here].all():
                raise Fault("divergent barrier: some threads of the block have ended")
            if len(np.unique(self.counter[here])) > 1:
                raise Fault("divergent barrier: the threads of the block are at different ones")
        self.status[waiting] = _RUNNING
        self.time[waiting] += 1

    def _step(self, instruction: Instruction, group: np.ndarray, following: int) -> None:
        active, warps = group, self.warps
        if instruction.guard is not None:
            name, wanted = instruction.guard
            if name not in self.registers:
                raise Fault(f"register {name} is read before it is written")
            active = group[self.registers[name][group] == wanted]
            if not len(active):
                return
            warps = self._warps(active) if len(active) < len(group) else warps
        self.counts.instructions += warps
        special = getattr(self, f"_{instruction.op}", None)
        if instruction.op in ("bra", "ret", "exit", "bar", "barrier"):
            self.counter[group] = following
            self.jumped = True
        if special is not None:
            special(instruction, active)
        else:
            self._compute(instruction, active)

    def _warps(self, active: np.ndarray) -> int:
        return len(np.unique(active // WARP)) if len(active) < self.n else self.n // WARP

    # ---- operands ---------------------------------------------------------------------------

    def _get(self, operand: Any, kind: str, active: np.ndarray, *, every: bool = False) -> Any:
        """An operand of each thread; a single number where all have the same, but for `every`."""
        dtype = DTYPES[kind]
        if isinstance(operand, str) and operand not in self.program.shared:
            source = self.special if operand in self.special else self.registers
            if operand not in source:
                raise Fault(f"register {operand} is read before it is written")
            value = source[operand] if len(active) == self.n else source[operand][active]
            if value.dtype == dtype:
                return value
            if value.dtype.itemsize == dtype.itemsize:
                return value.view(dtype)
            return value.view(f"u{value.dtype.itemsize}").astype(f"u{dtype.itemsize}").view(dtype)
        key = (operand if isinstance(operand, str) else (type(operand), str(operand)), kind)
        if key not in self.constants:
            self.constants[key] = self._constant(operand, dtype)
        value = self.constants[key]
        return np.repeat(value, len(active)) if every else value

    def _constant(self, operand: Any, dtype: np.dtype) -> np.ndarray:
        if isinstance(operand, str):
            return np.array([self.program.shared[operand]], dtype)
        if isinstance(operand, int):
            if dtype == bool or dtype.kind == "f":
                return np.array([operand], dtype)
            mask = (1 << 8 * dtype.itemsize) - 1
            return np.array([operand & mask], f"u{dtype.itemsize}").view(dtype)
        value = np.array([operand])
        return value if value.dtype == dtype else value.view(dtype)

    def _set(self, name: str, value: np.ndarray, active: np.ndarray) -> None:
        if name == "_":
            return
        if len(active) == self.n:
            whole = len(value) == self.n
            self.registers[name] = value if whole else np.repeat(value, self.n)
            return
        old = self.registers.get(name)
        if old is None:
            old = np.zeros(self.n, value.dtype)
        elif old.dtype != value.dtype:
            if old.dtype.itemsize != value.dtype.itemsize:
                raise Fault(f"register {name} changes its size")
            old = old.view(value.dtype)
        old = old.copy()
        old[active] = value
        self.registers[name] = old

    # ---- arithmetic -------------------------------------------------------------------------

    def _compute(self, i: Instruction, active: np.ndarray) -> None:
        if i.type not in DTYPES:
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
            if i.op in APPROXIMATE and self.approx[0] and "approx" in i.modifiers:
                result = self._approximated(result)
        else:
            raise NotImplementedError(i.text)
        self._set(target, _flushed(np.asarray(result), i), active)

    def _approximated(self, result: np.ndarray) -> np.ndarray:
        ulp, sign = self.approx
        wrong = self.random.integers(-ulp, ulp + 1, len(result)) if sign == 0 else ulp * sign
        off = (result.view(np.int32) + np.asarray(wrong, np.int32)).view(np.float32)
        # Powers of integers are exact.
        _, exponent = np.frexp(result)
        keep = ~np.isfinite(result) | (result == np.ldexp(np.float32(0.5), exponent))
        return np.where(keep | (result == 0), result, off)

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
            whole = a.astype(object) * b.astype(object) >> shift
            return whole.astype(a.dtype)
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
            words = self._get(source, i.type, active, every=True)
            words = words.view(f"u{part}").reshape(-1, len(target))
            for k, name in enumerate(target):
                self._set(name, words[:, k].copy(), active)
        elif isinstance(source, list):
            part = f"b{8 * DTYPES[i.type].itemsize // len(source)}"
            words = np.stack([self._get(s, part, active, every=True) for s in source], -1)
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

    def _mapa(self, i: Instruction, active: np.ndarray) -> None:
        """The generic address of the same place in the shared memory of a block of the cluster."""
        target, source, rank = i.operands
        ranks = self._get(rank, "u32", active).astype(np.uint64)
        if (ranks >= self.cluster).any():
            raise Fault("there is no such block in the cluster")
        window = np.uint64(1 << _WINDOW_BITS)
        self._set(
            target, self._get(source, "u64", active) + (ranks + np.uint64(1)) * window, active
        )

    # ---- control ----------------------------------------------------------------------------

    def _bra(self, i: Instruction, active: np.ndarray) -> None:
        self.counter[active] = self.program.labels[i.operands[0] if i.operands else i.type]

    def _ret(self, i: Instruction, active: np.ndarray) -> None:
        self.status[active] = _DONE
        if self.cluster > 1:
            reader = self.shared.reader.reshape(self.n // self.block_size, -1)
            time = self.shared.read_time.reshape(reader.shape)
            for block in np.unique(self.block_of[active]):
                now = self.time[active[self.block_of[active] == block]].min()
                foreign = (reader[block] < -1) | (reader[block] // self.block_size != block)
                if ((reader[block] != -1) & foreign & (time[block] >= now)).any():
                    raise Fault("a block ends while others may read its shared memory")

    _exit = _ret

    def _bar(self, i: Instruction, active: np.ndarray) -> None:
        if "warp" in i.modifiers:
            self._take_part(self._get(i.operands[0], "u32", active, every=True), active)
            return
        if self.cluster > 1 and "cluster" not in i.modifiers:
            raise NotImplementedError("barriers of single blocks in a cluster")
        if "arrive" in i.modifiers or "arrive" in i.type:
            self.arrived[active] = True
            return
        if "cluster" in i.modifiers and not self.arrived[active].all():
            raise Fault("a thread waits at a barrier at which it has not arrived")
        self.arrived[active] = False
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
        self._take_part(self._get(mask, "u32", active, every=True), active)
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
        at = self._get(base, "u64", active, every=True).view(np.int64) + offset
        if "shared" in i.modifiers:
            at = at + SHARED_WINDOW
        elif "global" in i.modifiers or (at >= self.memory.base // 2).all():
            return self.memory.space, at - self.memory.base
        at = at - SHARED_WINDOW
        window, at = at >> _WINDOW_BITS, at & ((1 << _WINDOW_BITS) - 1)
        if ((window < 0) | (window > self.cluster) | (at >= self.program.shared_size)).any():
            raise Fault("shared memory: out of bounds")
        own = self.block_of[active]
        block = np.where(window == 0, own, own // self.cluster * self.cluster + window - 1)
        return self.shared, at + block * self.program.shared_size

    def _count(self, i: Instruction, at: np.ndarray, size: int, active: np.ndarray) -> None:
        counts = self.counts
        counts.requests += self._warps(active)
        if i.op == "ld":
            counts.loaded += size * len(active)
        else:
            counts.stored += size * len(active)
        sectors = at // SECTOR  # an aligned access lies within one
        self.memory.space.sectors[i.op][sectors] = True
        counts.sectors += len(np.unique((active // WARP) << 40 | sectors))

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
        words = space.load(at, size, active, self.time[active]).view(dtype)
        if space is self.memory.space:
            self._count(i, at, size, active)
        for k, name in enumerate(targets):
            value = words[:, k].copy()
            if dtype.itemsize == 1:
                value = value.astype(np.int16 if dtype.kind == "i" else np.uint16)
            self._set(name, value, active)

    def _st(self, i: Instruction, active: np.ndarray) -> None:
        address, source = i.operands
        sources = source if isinstance(source, list) else [source]
        space, at = self._space_of(i, active, address)
        words = np.stack([self._get(s, i.type, active, every=True) for s in sources], -1)
        data = np.ascontiguousarray(words).view(np.uint8).reshape(len(active), -1)
        space.store(at, data, active, self.time[active])
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
