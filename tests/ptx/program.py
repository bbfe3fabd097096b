"""The text of a PTX kernel as a list of instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_PARAMETER = re.compile(r"\.param\s+\.(?:align\s+\d+\s+\.)?(\w+)\s+(\w+)")
_SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\];")
_STATEMENT = re.compile(r"(?:@(!?)(%\w+) )?(\S+)(.*)")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
_ADDRESS = re.compile(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\w+))?\s*\]")


@dataclass
class Instruction:
    """One instruction: ``@guard op.modifiers.type operands``.

    Attributes
    ----------
    op, modifiers, type
        ``setp``, ``("lt",)`` and ``"f32"`` for ``setp.lt.f32``.
    operands
        Names of registers, numbers, lists of them, or pairs (base, offset) for addresses.
    guard
        A predicate register and the value that it must have; None for always.
    text
        As it was written, for messages.
    """

    op: str
    modifiers: tuple[str, ...]
    type: str
    operands: list[Any]
    guard: tuple[str, bool] | None
    text: str

    @property
    def name(self) -> str:
        """Without its type, and without ``.ftz``."""
        return ".".join((self.op, *(m for m in self.modifiers if m != "ftz")))


@dataclass
class Program:
    """A kernel.

    Attributes
    ----------
    name
        The name of the entry.
    instructions
        What it does.
    labels
        At which instruction each label stands.
    parameters
        Name and type of each parameter.
    shared
        Offset of each array in shared memory.
    shared_size
        How large that is.
    max_threads
        ``.maxntid``, 0 if there is none.
    """

    name: str
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    parameters: list[tuple[str, str]] = field(default_factory=list)
    shared: dict[str, int] = field(default_factory=dict)
    shared_size: int = 0
    max_threads: int = 0


def number(text: str) -> Any:
    """A literal: integers as Python's, floats by their bits."""
    kind = {"0f": np.float32, "0d": np.float64}.get(text[:2].lower())
    return int(text, 0) if kind is None else np.frombuffer(bytes.fromhex(text[2:])[::-1], kind)[0]


def _operand(text: str) -> Any:
    text = text.strip()
    if text.startswith("{"):
        return [_operand(part) for part in text[1:-1].split(",")]
    if text.startswith("["):
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise NotImplementedError(f"address {text}")
        return found[1], int(found[2] or "0", 0)
    if re.fullmatch(r"-?\d.*", text):
        return number(text)
    return text.split("|")[0]  # the predicate that shfl also gives is not used


def _instruction(text: str) -> Instruction:
    negated, predicate, word, arguments = _STATEMENT.fullmatch(text).groups()
    guard = (predicate, not negated) if predicate else None
    op, *modifiers = word.split(".")
    kind = modifiers.pop() if modifiers else ""
    operands = [_operand(a) for a in _OPERAND.findall(arguments)]
    return Instruction(op, tuple(modifiers), kind, operands, guard, text)


def parse(text: str) -> Program:
    """The only kernel of a PTX module.

    Raises
    ------
    NotImplementedError
        If the module calls functions or is written in a way that compilers do not write.
    """
    text = _COMMENT.sub("", text)
    entry = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)(.*?)\{(.*)\}", text, re.DOTALL)
    if entry is None or re.search(r"\bcall\b|\.local\b", text):
        raise NotImplementedError("one entry is expected, without calls and local memory")
    name, parameters, directives, body = entry.groups()
    program = Program(name, parameters=[(p, t) for t, p in _PARAMETER.findall(parameters)])
    bound = re.search(r"\.maxntid\s+(\d+)", directives)
    program.max_threads = int(bound[1]) if bound else 0
    for align, array, size in _SHARED.findall(text):
        at = -(-program.shared_size // int(align)) * int(align)
        program.shared[array] = at
        program.shared_size = at + int(size)
    for line in re.split(r";|(?<=:)\s*\n", body):
        statement = " ".join(line.split()).lstrip("{} ")  # blocks are but names' scopes
        while found := re.match(r"(\$\w+):\s*", statement):
            program.labels[found[1]] = len(program.instructions)
            statement = statement[found.end() :]
        if statement and not statement.startswith((".reg", ".shared", ".pragma", ".loc")):
            program.instructions.append(_instruction(statement))
    return program
