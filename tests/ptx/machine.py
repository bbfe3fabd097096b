"""Runs a grid of threads in lock step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arithmetic import DTYPES, KINDS, SEMANTICS, SHARED_WINDOW, approximated, flushed
from .memory import WARP, Counts, Fault, Memory, Space, Values
from .program import Instruction, Program

_WINDOW_BITS = 20

_MASK = (1 << 64) - 1
_RUNNING, _WAITING, _DONE = 0, 1, 2
_FAR = 1 << 60


def launch(
    program: Program, memory: Memory, grid: Sequence[int], block: Sequence[int],
    arguments: Sequence[Any], *, cluster: int = 1, only: tuple[int, int] | None = None,
    approx_ulp: int = 0, approx_sign: int = 0, limit: int = 200_000,
) -> Counts:  # fmt: skip
    """Run a kernel.

    Parameters
    ----------
    program, memory
        The kernel, and what it works on.
    grid, block
        Blocks along x and y, and threads along x.
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
        approx = approx_ulp, approx_sign
        _Machine(program, memory, grid, block, arguments, cluster, only, approx).run(limit)
    return memory.space.counts


class _Machine:
    def __init__(
        self, program: Program, memory: Memory, grid: Sequence[int], block: Sequence[int],
        arguments: Sequence[Any], cluster: int, only: tuple[int, int] | None,
        approx: tuple[int, int],
    ) -> None:  # fmt: skip
        self.program, self.memory, self.cluster, self.approx = program, memory, cluster, approx
        self.random = np.random.default_rng(0)
        (across, down, *deep), (size, *more) = (*grid, 1), block
        if {*deep, *more} - {1}:
            raise NotImplementedError("grids of three dimensions, or blocks of two")
        self.block_size = size
        self.unit = size * cluster  # threads that a barrier may hold together
        given, asked = len(arguments), len(program.parameters)
        for wrong, text in (
            (0 < program.max_threads < size, f"{size} threads, .maxntid {program.max_threads}"),
            (size % WARP, "a block is not a whole number of warps"),
            (across % cluster, "a grid is not a whole number of clusters"),
            (given != asked, f"{given} arguments for {asked} parameters"),
        ):
            if wrong:
                raise Fault(text)
        first, blocks = only or (0, across * down)
        self.n = size * blocks
        self.threads = np.arange(self.n)
        self.block_of = self.threads // size
        index = self.block_of + first
        self.registers: dict[str, Values] = {
            "%tid.x": (self.threads % size).astype(np.uint32),
            "%ctaid.x": (index % across).astype(np.uint32),
            "%ctaid.y": (index // across).astype(np.uint32),
        }
        self.symbols = dict(program.shared)  # what has one value for all threads
        for (name, kind), value in zip(program.parameters, arguments, strict=True):
            self.symbols[name] = DTYPES[kind].type(value) if kind[0] == "f" else int(value)
        self.counter = np.zeros(self.n, np.int64)
        self.status = np.full(self.n, _RUNNING)
        self.arrived = np.zeros(self.n, bool)
        self.time = np.zeros(self.n, np.int64)  # barriers that a thread has passed
        self.shared = Space(program.shared_size * blocks, "shared memory")
        self.shared.allowed[:] = self.shared.writable[:] = True
        self.shared.forget(self.unit)
        memory.space.forget(self.unit)

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

    def _step(self, instruction: Instruction, group: Values, following: int) -> None:
        active, warps = group, self.warps
        if instruction.guard is not None:
            name, wanted = instruction.guard
            active = group[self._get(name, "pred", group) == wanted]
            if not len(active):
                return
            warps = self._warps(active) if len(active) < len(group) else warps
        self.memory.space.counts.instructions += warps
        if instruction.op in ("bra", "ret", "bar", "barrier"):
            self.counter[group] = following
            self.jumped = True
        act = _ACTIONS.get(instruction.name, _Machine._compute)
        act(self, instruction, active)

    def _warps(self, active: Values) -> int:
        return len(np.unique(active // WARP)) if len(active) < self.n else self.n // WARP

    # ---- operands ---------------------------------------------------------------------------

    def _get(self, operand: Any, kind: str, active: Values, *, every: bool = False) -> Any:
        """An operand of each thread; a single number where all have the same, but for `every`."""
        dtype = DTYPES[kind]
        if isinstance(operand, list):  # parts of a number
            part = f"b{8 * dtype.itemsize // len(operand)}"
            return self._words(operand, part, active).view(dtype)[:, 0]
        if isinstance(operand, str) and operand not in self.symbols:
            if operand not in self.registers:
                raise Fault(f"register {operand} is read before it is written")
            value = self.registers[operand]
            value = value if len(active) == self.n else value[active]
            if value.dtype.itemsize != dtype.itemsize:
                value = value.view(f"u{value.dtype.itemsize}").astype(f"u{dtype.itemsize}")
            return value.view(dtype)
        value = self._constant(operand, dtype)
        return np.repeat(value, len(active)) if every else value

    def _constant(self, operand: Any, dtype: np.dtype) -> Values:
        operand = self.symbols.get(operand, operand)
        if not isinstance(operand, int):
            return np.array([operand]).view(dtype)
        value = np.array([operand & _MASK], np.uint64)
        return value != 0 if dtype == bool else value.astype(f"u{dtype.itemsize}").view(dtype)

    def _words(self, operands: Sequence[Any], kind: str, active: Values) -> Values:
        """Several operands of each thread, side by side."""
        words = [self._get(operand, kind, active, every=True) for operand in operands]
        return np.ascontiguousarray(np.stack(words, -1))

    def _set(self, name: str | list[str], value: Values, active: Values) -> None:
        if isinstance(name, list):  # to be cut into parts
            parts = value[:, None].view(f"u{value.dtype.itemsize // len(name)}")
            for k, one in enumerate(name):
                self._set(one, parts[:, k].copy(), active)
            return
        if len(active) == self.n:
            whole = len(value) == self.n
            self.registers[name] = value if whole else np.repeat(value, self.n)
            return
        old = self.registers.get(name, np.zeros(self.n, value.dtype))
        if old.dtype.itemsize != value.dtype.itemsize:
            raise Fault(f"register {name} changes its size")
        new = old.view(value.dtype).copy()
        new[active] = value
        self.registers[name] = new

    # ---- arithmetic -------------------------------------------------------------------------

    def _compute(self, i: Instruction, active: Values) -> None:
        """What only depends on operands."""
        compute = SEMANTICS.get(i.name)
        if compute is None or i.type not in DTYPES:
            raise NotImplementedError(i.text)
        target, *sources = i.operands
        kinds = KINDS.get(i.op, {})
        values = [self._get(s, kinds.get(k, i.type), active) for k, s in enumerate(sources)]
        try:
            result = np.asarray(compute(*values))
        except ZeroDivisionError:
            raise Fault("division by zero") from None
        ulp, sign = self.approx
        if ulp and "approx" in i.modifiers:
            far = self.random.integers(-ulp, ulp + 1, len(result))
            result = approximated(result, far if sign == 0 else np.full(len(result), ulp * sign))
        self._set(target, flushed(result) if "ftz" in i.modifiers else result, active)

    def _mapa(self, i: Instruction, active: Values) -> None:
        """The generic address of the same place in the shared memory of a block of the cluster."""
        target, source, rank = i.operands
        ranks = self._get(rank, "u32", active).astype(np.uint64)
        if (ranks >= self.cluster).any():
            raise Fault("there is no such block in the cluster")
        there = self._get(source, "u64", active) + (ranks + np.uint64(1) << np.uint64(_WINDOW_BITS))
        self._set(target, there, active)

    # ---- control ----------------------------------------------------------------------------

    def _bra(self, i: Instruction, active: Values) -> None:
        self.counter[active] = self.program.labels[i.operands[0]]

    def _ret(self, i: Instruction, active: Values) -> None:
        self.status[active] = _DONE
        if self.cluster > 1:
            reader = self.shared.reads.who.reshape(self.n // self.block_size, -1)
            time = self.shared.reads.when.reshape(reader.shape)
            for block in np.unique(self.block_of[active]):
                now = self.time[active[self.block_of[active] == block]].min()
                foreign = (reader[block] < -1) | (reader[block] // self.block_size != block)
                if ((reader[block] != -1) & foreign & (time[block] >= now)).any():
                    raise Fault("a block ends while others may read its shared memory")

    def _bar(self, i: Instruction, active: Values) -> None:
        if (self.cluster > 1 and "cluster" not in i.modifiers) or i.operands not in ([], [0]):
            raise NotImplementedError("barriers of less than a block, or of one in a cluster")
        if "wait" in i.modifiers and not self.arrived[active].all():
            raise Fault("a thread waits at a barrier at which it has not arrived")
        self.arrived[active] = "arrive" in i.modifiers
        if "arrive" not in i.modifiers:
            self.status[active] = _WAITING

    def _take_part(self, masks: Values, active: Values) -> None:
        """Check that the lanes of each mask execute this instruction together."""
        warps, bits = active // WARP, np.uint64(1) << (active % WARP).astype(np.uint64)
        present = np.zeros(self.n // WARP, np.uint64)
        np.bitwise_or.at(present, warps, bits)
        if (masks & bits == 0).any():
            raise Fault("a lane is not in its own mask")
        if (masks & ~present[warps]).any():
            raise Fault("a mask names lanes that do not take part")

    def _shfl(self, i: Instruction, active: Values) -> None:
        target, source, offset, clamp, mask = i.operands
        self._take_part(self._get(mask, "u32", active, every=True), active)
        by = self._get(offset, "u32", active).astype(np.int64)
        bounds = self._get(clamp, "u32", active).astype(np.int64)
        lane, segment = active % WARP, bounds >> 8 & 31
        first, last = lane & segment, (lane & segment) | (bounds & 31 & ~segment)
        wanted = {"bfly": lane ^ by, "idx": first | (by & ~segment)}[i.modifiers[-1]]
        wanted = np.where(wanted <= last, wanted, lane)
        everyone, here = np.zeros(self.n, DTYPES[i.type]), np.zeros(self.n, bool)
        everyone[active], here[active] = self._get(source, i.type, active), True
        other = active - lane + wanted
        if not here[other].all():
            raise Fault("a shuffle reads from a lane that does not take part")
        self._set(target, everyone[other], active)

    # ---- memory -----------------------------------------------------------------------------

    def _space_of(self, i: Instruction, active: Values, address: Any) -> Any:
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

    def _ld(self, i: Instruction, active: Values) -> None:
        target, address = i.operands
        dtype = DTYPES[i.type]
        if "param" in i.modifiers:
            self._set(target, self._get(address[0], i.type, active), active)
            return
        targets = target if isinstance(target, list) else [target]
        space, at = self._space_of(i, active, address)
        words = space.load(at, dtype.itemsize * len(targets), active, self.time[active]).view(dtype)
        if dtype.itemsize == 1:  # there are no registers of 8 bits
            words = words.astype(f"{dtype.kind}2")
        for k, name in enumerate(targets):
            self._set(name, words[:, k].copy(), active)

    def _st(self, i: Instruction, active: Values) -> None:
        address, source = i.operands
        space, at = self._space_of(i, active, address)
        words = self._words(source if isinstance(source, list) else [source], i.type, active)
        space.store(at, words.view(np.uint8), active, self.time[active])


_ACTIONS: dict[str, Callable[[_Machine, Instruction, Values], None]] = {
    "bra": _Machine._bra, "ret": _Machine._ret, "bar": _Machine._bar,
    "barrier.cluster.arrive.release": _Machine._bar, "barrier.cluster.wait.acquire": _Machine._bar,
    "shfl.sync.bfly": _Machine._shfl, "shfl.sync.idx": _Machine._shfl, "mapa": _Machine._mapa,
    "ld.param": _Machine._ld,
    **{f"{op}{space}{vector}": act for op, act in (("ld", _Machine._ld), ("st", _Machine._st))
       for space in ("", ".global", ".shared") for vector in ("", ".v2", ".v4")},
}  # fmt: skip
"""Instructions that depend on more than their operands, and what they do."""
