"""Parsing of HLO text: the collectives of a compiled program and how often they run."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


@dataclass(frozen=True)
class Collective:
    """An operation that communicates between devices.

    Attributes:
      kind: all-gather, all-reduce, ...
      bytes: Size on one device of the operands or the result, whichever is larger.
      times: Number of executions in one call of the program.
      loops: ``op_name`` of the enclosing loops, outermost first.
      exact: Whether the trip counts of all enclosing loops are known. If False, ``times`` is a lower
        bound.
    """

    kind: str
    bytes: int
    times: int
    loops: tuple[str, ...]
    exact: bool = True


class Instruction(NamedTuple):
    """A line of HLO: ``%name = type opcode(operands), attributes``."""

    name: str
    type: str
    opcode: str
    rest: str

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of a pattern in the operands and attributes, or None."""
        found = re.search(pattern, self.rest)
        return found[1] if found else None

    def called(self) -> list[str]:
        """Returns the names of the computations that the instruction calls."""
        found = _CALLS.findall(self.rest)
        return [name for part in found for name in re.findall(r"[\w.\-]+", part)]


Computations = dict[str, list[Instruction]]
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_CALLS = re.compile(
    r"\b(?:calls|to_apply|(?:called|branch)_computations|(?:true|false)_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")


def collectives(text: str) -> list[Collective]:
    """Returns all collectives in the HLO text of a program, the result of ``compiled.as_text()``.

    In TPU programs, an asynchronous collective appears several times with the same ``chain_id``: at its
    start, at its end, and in operations in between, possibly inside a loop. It is counted once.
    """
    computations, entry = parse(text)
    chains: dict[str, Collective] = {}
    for n, (chain, found) in enumerate(_walk(computations, entry, 1, (), True)):
        key = f"no chain {n}" if chain is None else chain
        if key not in chains or found.times < chains[key].times:
            chains[key] = found
    return list(chains.values())


def parse(text: str) -> tuple[Computations, str]:
    """Parses HLO text into the instructions of each computation, and the name of the entry computation."""
    computations: Computations = {}
    entry, lines = "", []
    for line in text.splitlines():
        if instruction := _INSTRUCTION.match(line):
            lines.append(Instruction(*instruction.groups()))
        elif header := _COMPUTATION.match(line):
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
    return computations, entry


def trip_count(loop: Instruction, computations: Computations) -> int | None:
    """Returns the trip count of a ``while`` loop from 0 to a constant, or None if it is unknown."""
    known = loop.attribute(r'known_trip_count"?:\{"?n"?:"?(\d+)')
    if known is not None:
        return int(known)
    condition = computations.get(loop.attribute(r"condition=%?([\w.\-]+)") or "", [])
    constants = [
        i for i in condition if i.opcode == "constant" and re.match(r"[su]\d+\[\]", i.type)
    ]
    limits = [match[1] for i in constants if (match := re.match(r"(\d+)\)", i.rest))]
    compared = any("direction=LT" in i.rest for i in condition)
    return int(limits[0]) if compared and len(limits) == 1 else None


def size(type: str) -> int:
    """Returns the number of bytes of an HLO type. For a tuple, the sum of its elements.

    >>> size("(bf16[2,64]{1,0:T(8,128)(2,1)}, /*index=1*/f32[], pred[3])")
    263
    """
    total = 0.0
    for kind, dims in re.findall(r"\b(pred|[a-z]+\d\w*)\[([\d,]*)\]", type):
        bits = 8 if kind == "pred" else int(re.search(r"\d+", kind)[0])  # type: ignore[index]
        total += math.prod(int(n) for n in dims.split(",") if n) * bits / 8
    return math.ceil(total)


def _walk(
    computations: Computations, name: str, times: int, loops: tuple[str, ...], exact: bool
) -> Iterator[tuple[str | None, Collective]]:
    """Yields the collectives that a computation runs, with their ``chain_id``."""
    instructions = computations.get(name, [])
    types = {i.name: i.type for i in instructions}
    for i in instructions:
        kind = i.opcode.removesuffix("-start")
        if kind in KINDS:
            found = Collective(kind, _bytes_moved(i, types), times, loops, exact)
            if name.startswith("all-reduce-scatter"):  # its name in TPU programs
                found = replace(found, kind="reduce-scatter")
            yield i.attribute(r'chain_id="(\w+)"'), found
        if i.opcode == "while":
            trips = trip_count(i, computations)
            inside = (*loops, i.attribute(r'op_name="([^"]*)"') or "")
            body = i.attribute(r"body=%?([\w.\-]+)") or ""
            known = exact and trips is not None
            yield from _walk(computations, body, times * (trips or 1), inside, known)
        for called in i.called():
            yield from _walk(computations, called, times, loops, exact)


def _bytes_moved(i: Instruction, types: dict[str, str]) -> int:
    """Returns the size of the operands or of the result, whichever is larger."""
    names = re.findall(r"%([\w.\-]+)", i.rest.split(")", 1)[0])
    operands, result = sum(size(types.get(name, "")) for name in names), size(i.type)
    is_start_tuple = i.opcode.endswith("-start") and i.type.startswith("(")
    if is_start_tuple:  # the result tuple of a start includes the operands
        result -= operands
    return max(operands, result)
