"""What a compiled program does in its loops, read from its text."""

import re

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")


def computations(text: str) -> dict[str, list[str]]:
    """The instructions of each computation, by its name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            lines = found.setdefault(header[1], [])
        else:
            lines.append(line.strip())
    return found


def collectives(text: str) -> list[str]:
    """The instructions that communicate."""
    pattern = re.compile(rf" (?:{'|'.join(COLLECTIVES)})(?:-start)?\(")
    return [line.strip() for line in text.splitlines() if pattern.search(line)]


def collectives_in_loops(text: str) -> list[str]:
    """Those in the body or the condition of a while loop, and in what these call."""
    found = computations(text)
    names = {n: set(re.findall(r"[\w.\-]+", " ".join(lines))) for n, lines in found.items()}
    loops = re.findall(r"(?:body|condition)=%?([\w.\-]+)", text)
    assert loops, "there is no loop"
    reached: set[str] = set()
    while loops:
        name = loops.pop()
        if name not in reached:
            reached.add(name)
            loops += names[name] & found.keys()
    return collectives("\n".join(line for name in reached for line in found[name]))
